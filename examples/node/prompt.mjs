// Messages to prompts: the template's placeholders are filled in one step, and what is filled in is never looked at again.

import { ReaderError } from "./bundle.mjs";
import { strip } from "./tokenizer.mjs";

export const fill = (text, values) => text.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name] ?? "");

/** What differs by role is a table with one entry for each. */
const byRole = (value, role) => (typeof value === "object" && !Array.isArray(value) ? value[role] : value);

/** The labels of a role mode, in the policy's order. */
export const labelsOf = (spec, role) => spec.policy.labels.filter((label) => !label.roles || label.roles.includes(role));

/** The verdict grammar of a role mode. */
export const grammarOf = (spec, role) => byRole(spec.verdict.grammar, role);

/** The messages that the template gets; the last one is judged. */
export function readMessages(spec, content) {
  const all = typeof content === "string" ? [{ role: "user", content }] : content;
  const judged = all.findLastIndex(({ role }) => role === "user" || role === "assistant");
  if (judged < 0) throw new ReaderError("there is no message of a user or assistant to judge");
  if (all.some((message) => !message.content.isWellFormed())) throw new ReaderError("the text holds a lone surrogate");
  if (!strip(all[judged].content)) throw new ReaderError("the judged message is blank");
  if (!(all[judged].role in spec.template.roles)) throw new ReaderError(`${spec.name} cannot judge ${all[judged].role} messages`);
  const { turns = "any" } = spec.template;
  const messages = [];
  let gap = false; // something has been left out since the last message
  all.slice(0, judged + 1).forEach((message, i) => {
    const kept = message.role in spec.template.messages && (i === judged || strip(message.content));
    if (kept && gap && turns !== "any" && messages.at(-1)?.role === message.role) {
      messages.push({ ...message, content: `${messages.pop().content}\n\n${message.content}` });
    } else if (kept) {
      messages.push(message);
    }
    gap = !kept;
  });
  checkTurns(spec.name, turns, messages.filter(({ role }) => role === "user" || role === "assistant"));
  return messages;
}

function checkTurns(name, turns, messages) {
  const inTurn = messages.every(({ role }, i) => role === ["user", "assistant"][i % 2]);
  if (turns !== "any" && (!inTurn || (turns === "pair" && messages.length > 2))) throw new ReaderError(`${name} has no place for these turns`);
}

/** The prompts of some messages, each with the label that it asks for (null: all), its pieces, and its last scaffold text. */
export function promptsOf(spec, messages) {
  const { template } = spec;
  const role = messages.at(-1).role;
  const labels = labelsOf(spec, role);
  const one = spec.policy.aggregate === "max" ? labels.map((label) => [label]) : [labels];
  return one.map((policy) => {
    const items = policy.map((label) => fill(template.policy_item, { code: "", ...label, definition: byRole(label.definition ?? "", role) }));
    const [before, after] = byRole(template.text, role)
      .split("{{conversation}}")
      .map((text) => fill(text, { policy: items.join(""), role: template.roles[role] }));
    const pieces = [{ text: before, isContent: false }];
    for (const message of messages) {
      const [head, foot] = template.messages[message.role].split("{{content}}");
      const text = template.strip ? strip(message.content) : message.content;
      pieces.at(-1).text += head; // pieces of scaffold that touch are one
      pieces.push({ text, isContent: true }, { text: foot, isContent: false });
    }
    const closing = template.messages[role].split("{{content}}")[1] + after;
    pieces.at(-1).text += after;
    return { role, label: one.length > 1 || spec.policy.aggregate === "max" ? policy[0].id : null, pieces, closing };
  });
}
