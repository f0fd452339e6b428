"use strict";
// Draws the report from the JSON in the page. Texts become text nodes, never markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const L = data.labels.length, W = L + 1, N = data.count, POOLED = -1, UNSAFE = L;
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const truth = new Int8Array(bytes(data.truth).buffer); // 1, 0, or -1: unknown
  const runs = data.runs.map((run) => ({ ...run, score: new Float32Array(bytes(run.score).buffer) }));
  const key = (column) => (column === POOLED ? "*" : column === UNSAFE ? "unsafe" : data.labels[column].id);
  const title = (column) => {
    if (column === POOLED) return "all labels";
    if (column === UNSAFE) return "unsafe";
    const { id, name } = data.labels[column];
    return name === id ? id : `${id} ${name}`;
  };
  const columns = [...data.labels.keys()];
  const knows = (column) => { for (let i = column; i < N * W; i += W) if (truth[i] >= 0) return true; return false; };
  const every = L && !knows(UNSAFE) ? columns : [...columns, UNSAFE]; // what nothing is known of is left out
  const state = { run: runs[0], target: L ? POOLED : UNSAFE, shown: 30 };
  const thresholds = [...columns.map(() => data.threshold), 0.5];
  const top = Math.max(1, ...runs.map((run) => run.score.reduce((a, b) => (b > a ? b : a), 0)));

  const fixed = (x) => (x === null || x === undefined || Number.isNaN(x) ? "–" : x.toFixed(3));
  const percent = (x) => (Number.isNaN(x) ? "–" : `${(100 * x).toFixed(x > 0 && x < 0.1 ? 1 : 0)}%`);
  const whole = (x) => x.toLocaleString("en");
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  function svg(tag, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // What is known and scored: [truth, score] pairs of a column, or of all labels.
  function* cases(run, column) {
    for (const c of column === POOLED ? columns : [column]) {
      for (let i = c; i < N * W; i += W) {
        if (truth[i] >= 0 && !Number.isNaN(run.score[i])) yield [truth[i], run.score[i], c];
      }
    }
  }
  // Scores are single floats, so thresholds are rounded alike: 0.7 reaches 0.7.
  const reaches = (score, column) => score >= Math.fround(thresholds[column]);
  function counts(run, column) {
    const found = { tp: 0, fp: 0, fn: 0, tn: 0 };
    for (const [is, score, c] of cases(run, column)) found[(reaches(score, c) ? (is ? "tp" : "fp") : is ? "fn" : "tn")] += 1;
    const { tp, fp, fn, tn } = found;
    return {
      ...found, precision: tp / (tp + fp), recall: tp / (tp + fn), fpr: fp / (fp + tn),
      f1: tp + fn + fp ? (2 * tp) / (2 * tp + fp + fn) : NaN, wrong: (fp + fn) / (tp + fp + fn + tn),
    };
  }

  // Charts: 440 × 300, the plot inside margins.
  const box = { left: 46, right: 428, top: 10, bottom: 258 };
  function chart(name, xLabel, yLabel, xMax = 1) {
    const image = svg("svg", { viewBox: "0 0 440 300", role: "img", "aria-label": name });
    const x = (v) => box.left + (v / xMax) * (box.right - box.left);
    const y = (v) => box.bottom - v * (box.bottom - box.top);
    for (let k = 0; k <= 4; k++) {
      image.append(svg("line", { class: "axis", x1: x(0), x2: x(xMax), y1: y(k / 4), y2: y(k / 4) }));
      image.append(svg("text", { x: x((xMax * k) / 4), y: box.bottom + 18, "text-anchor": "middle" }, +((xMax * k) / 4).toFixed(2)));
    }
    image.append(svg("text", { x: (box.left + box.right) / 2, y: 294, "text-anchor": "middle" }, xLabel));
    image.append(svg("text", { x: 12, y: (box.top + box.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(box.top + box.bottom) / 2})` }, yLabel));
    const ticks = (format) => {
      for (let k = 0; k <= 4; k++) image.append(svg("text", { x: box.left - 6, y: y(k / 4) + 4, "text-anchor": "end" }, format(k / 4)));
    };
    return { image, x, y, ticks };
  }
  function line(points, x, y) {
    let path = "", last = [-9, -9];
    points.forEach(([a, b], i) => {
      const at = [x(a), y(b)];
      if (i === points.length - 1 || Math.hypot(at[0] - last[0], at[1] - last[1]) >= 0.4) {
        path += `${path ? "L" : "M"}${at[0].toFixed(1)} ${at[1].toFixed(1)}`;
        last = at;
      }
    });
    return path;
  }
  function put(id, image, ...legend) {
    $(id).replaceChildren(image, ...(legend.length ? [el("p", { class: "legend" }, ...legend)] : []));
  }
  const swatch = (kind) => el("span", { class: `swatch ${kind}` });
  const nothing = (id, why) => $(id).replaceChildren(el("p", { class: "note" }, `Not defined: ${why}.`));

  function reliability(run, column) {
    const series = [["one", run.bins[key(column)], run.before ? "calibrated" : "scores"]];
    if (run.before) series.unshift(["two", run.before[key(column)], "before calibration"]);
    if (!series.some(([, bins]) => bins && bins.length)) return nothing("reliability", "nothing is known");
    const { image, x, y, ticks } = chart(`Reliability of ${title(column)}`, "mean score of the bin", "share that is true", top);
    ticks((v) => v);
    image.append(svg("path", { class: "guide", d: line([[0, 0], [1, 1]], x, y) }));
    const legend = [];
    for (const [kind, bins, name] of series) {
      image.append(svg("path", { class: kind, d: line(bins, x, y) }));
      let error = 0, mass = 0;
      for (const [score, share, size] of bins) {
        const dot = svg("circle", { class: `${kind}-dot`, cx: x(score), cy: y(share), r: 4 });
        dot.append(svg("title", {}, `${whole(size)} cases: score ${fixed(score)}, true ${fixed(share)}`));
        image.append(dot);
        error += Math.abs(score - share) * size;
        mass += size;
      }
      legend.push(swatch(kind), `${name}, ECE ${fixed(error / mass)}`);
    }
    put("reliability", image, ...legend);
  }

  function histogram(run, column) {
    const BINS = 25, up = new Array(BINS).fill(0), down = new Array(BINS).fill(0);
    for (const [is, score] of cases(run, column)) (is ? up : down)[Math.min(BINS - 1, Math.floor((score / top) * BINS))] += 1;
    const total = (bins) => bins.reduce((a, b) => a + b, 0);
    const sums = [total(up), total(down)];
    if (!sums[0] && !sums[1]) return nothing("histogram", "nothing is known");
    const { image, x, ticks } = chart(`Scores of ${title(column)}`, "score", "share of the class", top);
    const shares = [up, down].map((bins, k) => bins.map((n) => (sums[k] ? n / sums[k] : 0)));
    const most = Math.max(...shares.flat());
    const middle = (box.top + box.bottom) / 2, half = (box.bottom - box.top) / 2;
    ticks((v) => `${Math.round(100 * most * Math.abs(2 * v - 1))}%`);
    shares.forEach((bins, k) => bins.forEach((share, i) => {
      if (!share) return;
      const tall = Math.max(1, (share / most) * half), width = (box.right - box.left) / BINS - 1;
      const bar = svg("rect", { class: k ? "bar-one" : "bar-two", x: x((i * top) / BINS) + 0.5, width, height: tall, y: k ? middle : middle - tall });
      bar.append(svg("title", {}, `${fixed((i * top) / BINS)} to ${fixed(((i + 1) * top) / BINS)}: ${whole([up, down][k][i])} of ${whole(sums[k])}`));
      image.append(bar);
    }));
    if (column !== POOLED || same()) {
      const at = x(Math.min(top, thresholds[column === POOLED ? 0 : column]));
      image.append(svg("line", { class: "cut", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    }
    put("histogram", image, swatch("two"), `${whole(sums[0])} true (up)`, swatch("one"), `${whole(sums[1])} false (down)`);
  }

  function curves(run, column) {
    const sorted = [...cases(run, column)].sort((a, b) => b[1] - a[1]);
    const positives = sorted.reduce((n, [is]) => n + is, 0), negatives = sorted.length - positives;
    if (!positives || !negatives) {
      const why = positives ? "no negatives" : negatives ? "no positives" : "nothing is known";
      nothing("roc", why);
      return nothing("pr", why);
    }
    const roc = [[0, 0]], pr = [];
    let tp = 0, fp = 0;
    sorted.forEach(([is, score], i) => {
      if (is) tp += 1; else fp += 1;
      if (i + 1 === sorted.length || sorted[i + 1][1] !== score) { // equal scores move together
        roc.push([fp / negatives, tp / positives]);
        pr.push([tp / positives, tp / (tp + fp)]);
      }
    });
    const now = counts(run, column);
    const here = (x, y, a, b, text) => {
      const dot = svg("circle", { class: "here", cx: x(a), cy: y(b), r: 6 });
      dot.append(svg("title", {}, text));
      return dot;
    };
    let { image, x, y, ticks } = chart(`ROC curve of ${title(column)}`, "false-positive rate", "recall");
    ticks((v) => v);
    image.append(svg("path", { class: "guide", d: line([[0, 0], [1, 1]], x, y) }), svg("path", { class: "one", d: line(roc, x, y) }));
    image.append(here(x, y, now.fpr, now.recall, `recall ${fixed(now.recall)}, false-positive rate ${fixed(now.fpr)}`));
    put("roc", image, `AUC ${fixed(run.auc[key(column)])}. The dot is the threshold.`);
    ({ image, x, y, ticks } = chart(`Precision-recall curve of ${title(column)}`, "recall", "precision"));
    ticks((v) => v);
    const base = positives / (positives + negatives);
    image.append(svg("path", { class: "guide", d: line([[0, base], [1, base]], x, y) }), svg("path", { class: "one", d: line([[0, pr[0][1]], ...pr], x, y) }));
    if (now.tp + now.fp) image.append(here(x, y, now.recall, now.precision, `recall ${fixed(now.recall)}, precision ${fixed(now.precision)}`));
    put("pr", image, `Average precision ${fixed(run.precision[key(column)])}; ${percent(base)} are true.`);
  }

  // The explorer's rows are built once, so that a slider keeps the focus.
  const SHOWN = ["tp", "fp", "fn", "tn", "precision", "recall", "fpr", "f1"];
  const rows = every.map((column) => {
    const range = el("input", { type: "range", min: 0, max: top, step: 0.005, "aria-label": `Threshold of ${title(column)}` });
    const number = el("input", { type: "number", min: 0, max: top, step: "any", "aria-label": `Threshold of ${title(column)} as a number` });
    const name = el("button", { type: "button", class: "name" }, title(column));
    const cells = SHOWN.map(() => el("td"));
    const area = el("td");
    name.addEventListener("click", () => { $("target").value = column; choose(); });
    for (const input of [range, number]) input.addEventListener("input", () => { if (input.value !== "") set([column], +input.value, input); });
    return { column, range, number, cells, area, row: el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "set" }, range, " ", number), ...cells, area) };
  });
  $("explorer").append(
    el("thead", {}, el("tr", {}, ...["Label", "Threshold", "True pos.", "False pos.", "False neg.", "True neg.", "Precision", "Recall", "False-pos. rate", "F1", "AUC"]
      .map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map(({ row }) => row)),
  );
  function explorer(run) {
    for (const { column, range, number, cells, area, row } of rows) {
      if (document.activeElement !== range) range.value = thresholds[column];
      if (document.activeElement !== number) number.value = +thresholds[column].toPrecision(6);
      const found = counts(run, column);
      cells.forEach((cell, k) => { cell.textContent = k < 4 ? whole(found[SHOWN[k]]) : fixed(found[SHOWN[k]]); });
      const why = run.why[key(column)];
      area.textContent = why ? `– ${why}` : fixed(run.auc[key(column)]);
      row.classList.toggle("on", column === state.target);
    }
    const unsafe = `unsafe = ${thresholds[UNSAFE]}\n`;
    const own = columns.map((column) => `${JSON.stringify(data.labels[column].id)} = ${thresholds[column]}\n`);
    $("toml").value = unsafe + (own.length ? `\n[labels]\n${own.join("")}` : "");
  }
  function tiles(run, column) {
    const found = counts(run, column);
    const tile = (name, value) => el("div", { class: "tile" }, el("b", {}, value), el("span", {}, name));
    $("tiles").replaceChildren(
      tile("true positives", whole(found.tp)), tile("false positives", whole(found.fp)), tile("false negatives", whole(found.fn)),
      tile("true negatives", whole(found.tn)), tile("precision", fixed(found.precision)), tile("recall", fixed(found.recall)),
      tile("false-positive rate", fixed(found.fpr)), tile("F1", fixed(found.f1)), tile(column === POOLED ? "Hamming loss" : "wrong", fixed(found.wrong)),
    );
  }

  function confusion(run) {
    const at = (i, c) => truth[i * W + c];
    const known = (i, c) => !Number.isNaN(run.score[i * W + c]);
    const said = (i, c) => reaches(run.score[i * W + c], c);
    const safe = (i) => at(i, UNSAFE) === 0 || (L > 0 && columns.every((c) => at(i, c) === 0));
    const share = (of, c, want) => {
      let hits = 0, all = 0;
      for (let i = 0; i < N; i++) if (of(i) && known(i, c) && want(i, c)) { all += 1; hits += said(i, c); }
      return [hits, all];
    };
    const cell = ([hits, all], self, what) => {
      const node = el("td", self ? { class: "self" } : {}, all ? `${Math.round((100 * hits) / all)}` : "");
      const heat = all ? hits / all : 0;
      node.title = `${what}: ${whole(hits)} of ${whole(all)}`;
      node.style.backgroundColor = `rgba(var(--heat), ${(0.85 * heat).toFixed(3)})`;
      if (heat > 0.55) node.style.color = "var(--ground)";
      return node;
    };
    const used = columns.filter((c) => { for (let i = 0; i < N; i++) if (at(i, c) === 1) return true; return false; });
    const lines = used.map((r) => el("tr", {}, el("th", { scope: "row" }, title(r)), ...columns.map((c) =>
      cell(share((i) => at(i, r) === 1, c, (i) => (r === c ? true : at(i, c) === 0)), r === c, `${key(r)} → ${key(c)}`))));
    const none = el("tr", {}, el("th", { scope: "row" }, "safe"), ...columns.map((c) => cell(share(safe, c, () => true), false, `safe → ${key(c)}`)));
    $("confusion").replaceChildren(
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Has ↓ predicted → %"), ...columns.map((c) => el("th", { scope: "col" }, key(c))))),
      el("tbody", {}, ...lines, none),
    );
    $("confusion").closest("section").hidden = !L;
  }

  function errors(run) {
    const label = $("e-label").value, kind = $("e-kind").value, text = $("e-text").value.trim().toLowerCase();
    const found = [], sums = { fp: 0, fn: 0 };
    for (const column of label === "" ? every : [+label]) {
      const own = { fp: [], fn: [] };
      for (let i = 0; i < N; i++) {
        const is = truth[i * W + column], score = run.score[i * W + column];
        if (is < 0 || Number.isNaN(score) || reaches(score, column) === (is === 1)) continue;
        own[is ? "fn" : "fp"].push({ i, column, kind: is ? "fn" : "fp", score, far: Math.abs(score - thresholds[column]) });
      }
      for (const [name, list] of Object.entries(own)) {
        if (kind && kind !== name) continue;
        sums[name] += list.length;
        found.push(...list.sort((a, b) => b.far - a.far).slice(0, data.worst));
      }
    }
    const matching = found.filter(({ i }) => {
      const entry = data.texts[i];
      return entry && (!text || entry.text.toLowerCase().includes(text) || entry.id.toLowerCase() === text);
    }).sort((a, b) => b.far - a.far);
    $("e-count").textContent = `${whole(sums.fp)} false positives and ${whole(sums.fn)} false negatives at these thresholds` +
      (matching.length < sums.fp + sums.fn ? `; ${whole(matching.length)} match${text ? "" : ` among the worst ${data.worst} of each kind and label`}` : "") + ". Worst first.";
    const names = (i, test) => every.filter((c) => test(i * W + c, c)).map(key).join(", ") || "none";
    $("e-list").replaceChildren(...matching.slice(0, state.shown).map(({ i, column, kind: k, score }) => el("li", {},
      el("div", { class: "meta" },
        el("span", { class: `badge ${k}` }, k === "fp" ? "false positive" : "false negative"), el("span", {}, title(column)),
        el("span", {}, `score ${fixed(score)}`), el("span", {}, `id ${data.texts[i].id}`),
        el("span", {}, `labelled: ${names(i, (at) => truth[at] === 1)}`),
        el("span", {}, `predicted: ${names(i, (at, c) => reaches(run.score[at], c))}`)),
      el("p", { dir: "auto" }, data.texts[i].text))));
    $("e-more").hidden = matching.length <= state.shown;
  }

  const same = () => columns.every((column) => thresholds[column] === thresholds[0]);
  function bar() {
    const shown = thresholds[state.target === POOLED ? 0 : state.target];
    if (document.activeElement !== $("slider")) $("slider").value = shown;
    if (document.activeElement !== $("number")) $("number").value = state.target !== POOLED || same() ? +shown.toPrecision(6) : "";
    $("every").hidden = state.target === POOLED || !L;
  }
  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const { run, target } = state;
      $("shown").textContent = title(target);
      bar(); tiles(run, target); explorer(run); reliability(run, target); histogram(run, target); curves(run, target);
      confusion(run); errors(run);
    });
  }
  function set(which, value, from) {
    if (!Number.isFinite(value)) return;
    for (const column of which) thresholds[column] = value;
    if (from) from.setAttribute("aria-valuetext", fixed(value));
    draw();
  }
  function choose() {
    state.run = runs[+$("run").value];
    state.target = +$("target").value;
    draw();
  }

  runs.forEach((run, i) => $("run").append(el("option", { value: i }, run.name)));
  const option = (column) => el("option", { value: column }, title(column));
  const first = [...every].sort((a, b) => (b === UNSAFE) - (a === UNSAFE)); // unsafe, then the labels
  $("target").append(...(L ? [option(POOLED)] : []), ...first.map(option));
  $("e-label").append(el("option", { value: "" }, "any"), ...first.map(option));
  for (const id of ["slider", "number"]) {
    $(id).max = top;
    $(id).addEventListener("input", () => { if ($(id).value !== "") set(state.target === POOLED ? columns : [state.target], +$(id).value, $(id)); });
  }
  $("every").addEventListener("click", () => set(columns, thresholds[state.target]));
  for (const id of ["run", "target"]) $(id).addEventListener("change", choose);
  for (const id of ["e-label", "e-kind", "e-text"]) $(id).addEventListener("input", () => { state.shown = 30; draw(); });
  $("e-more").addEventListener("click", () => { state.shown += 30; draw(); });
  for (const id of ["controls", "filters"]) $(id).addEventListener("submit", (event) => event.preventDefault());
  $("controls").hidden = $("body").hidden = false;
  draw();
})();
