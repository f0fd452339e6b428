"""A desktop application: text in, bars out. It works offline, and its window never waits for the guard.

    python guardbars.py                         the window
    python guardbars.py --check "TEXT"          no window: prints the probabilities, for tests of a built application
    python guardbars.py --check-window "TEXT"   opens the window, puts the text in, prints what the bars show, and ends

README.md beside this file says how to build it with PyInstaller.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading

from tokmarg import ContentError, Guard, Result, TokmargError

BUNDLE = "reference-guard"
#: Milliseconds without typing before a text is scored, and between two looks for a result.
PAUSE, POLL = 250, 30
#: Seconds after which a check of the window gives up.
PATIENCE = 120
BAR, ROW, NAME, MARGIN = 320, 22, 210, 12


class Scorer(threading.Thread):
    """Loads the guard and scores texts, the newest one first; what was not begun when a newer one came is left out.

    Attributes:
        answers: the guard once it is loaded; then for each text that was scored (text, result or error).
    """

    def __init__(self, bundle: str) -> None:
        super().__init__(daemon=True, name="scorer")
        self._bundle = bundle
        self._texts: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Guard | tuple[str, Result | TokmargError]] = queue.SimpleQueue()

    def submit(self, text: str) -> None:
        """Has a text scored."""
        self._texts.put(text)

    def run(self) -> None:
        try:
            guard = Guard.load(self._bundle, device="cpu")
        except TokmargError as error:
            self.answers.put(("", error))
            return
        self.answers.put(guard)
        while True:
            text = self._texts.get()
            while not self._texts.empty():
                text = self._texts.get()
            try:
                self.answers.put((text, guard.score(text)))
            except ContentError as error:
                self.answers.put((text, error))


class Window:
    """The window: a text field, a line that says how it stands, and a bar for each probability."""

    def __init__(self, scorer: Scorer, check: str | None = None) -> None:
        import tkinter as tk

        self._scorer, self._check = scorer, check
        self.root = tk.Tk()
        self.root.title("tokmarg")
        self._text = tk.Text(self.root, width=64, height=8, wrap="word", undo=True)
        self._text.pack(fill="both", expand=True, padx=MARGIN, pady=(MARGIN, 4))
        self._text.bind("<<Modified>>", self._typed)
        self._status = tk.Label(self.root, text="Loading the guard …", anchor="w")
        self._status.pack(fill="x", padx=MARGIN)
        self._bars = tk.Canvas(self.root, width=NAME + BAR + 60, height=ROW, highlightthickness=0)
        self._bars.pack(padx=MARGIN, pady=(4, MARGIN))
        self._titles: dict[str, str] = {}
        self._pause: str | None = None
        self.exit_code: int | None = None  # set where a check has ended
        self._poll()
        if check is not None:
            self._text.insert("1.0", check)
            self.root.after(PATIENCE * 1000, self._give_up)

    def _typed(self, _: object) -> None:
        if not self._text.edit_modified():
            return
        self._text.edit_modified(False)
        if self._pause is not None:
            self.root.after_cancel(self._pause)
        self._pause = self.root.after(PAUSE, self._submit)

    def _submit(self) -> None:
        self._pause = None
        text = self._text.get("1.0", "end-1c")
        if text.strip():
            self._scorer.submit(text)
        else:
            self._bars.delete("all")
            self._status["text"] = "Write or paste a text."

    def _poll(self) -> None:
        """Takes what the scorer has found, without waiting for it."""
        while not self._scorer.answers.empty():
            answer = self._scorer.answers.get()
            if isinstance(answer, Guard):
                self._titles = {label.id: label.name for label in answer.spec.labels}
                self._bars["height"] = ROW * (len(self._titles) + 1)
                self._status["text"] = "Write or paste a text."
            else:
                self._show(*answer)
        if self.exit_code is None:
            self.root.after(POLL, self._poll)
        else:
            self.root.update()  # everything has been drawn
            self.root.destroy()

    def _show(self, text: str, found: Result | TokmargError) -> None:
        self._bars.delete("all")
        if isinstance(found, TokmargError):
            self._status["text"] = f"Error: {found}"
        else:
            self._status["text"] = "Flagged" if found.flagged else "Not flagged"
            for row, (event, probability) in enumerate(probabilities(found).items()):
                self._draw(row * ROW, self._titles.get(event, event), probability)
        if self._check is not None:
            self.exit_code = report(found)

    def _draw(self, y: int, title: str, probability: float) -> None:
        colour = "#b3261e" if probability >= 0.5 else "#5b7a99"
        self._bars.create_text(NAME - 8, y + ROW // 2, text=title, anchor="e", width=NAME - 8)
        self._bars.create_rectangle(NAME, y + 3, NAME + BAR, y + ROW - 3, fill="#e6e6e6", width=0)
        self._bars.create_rectangle(NAME, y + 3, NAME + round(BAR * probability), y + ROW - 3, fill=colour, width=0)
        self._bars.create_text(NAME + BAR + 8, y + ROW // 2, text=f"{probability:.3f}", anchor="w")

    def _give_up(self) -> None:
        print(f"no result within {PATIENCE} seconds", file=sys.stderr)
        self.exit_code = 1


def probabilities(result: Result) -> dict[str, float]:
    """``unsafe``, then every label."""
    labels = {label: known.probability for label, known in result.labels.items() if known is not None}
    return {"unsafe": result.unsafe.probability, **labels}


def report(found: Result | TokmargError) -> int:
    """Prints what was found, one line a probability; gives the exit code."""
    if isinstance(found, TokmargError):
        print(f"error: {found}", file=sys.stderr)
        return 1
    for event, probability in probabilities(found).items():
        print(f"{probability:.6f}  {event}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Text in, bars out.")
    parser.add_argument("--bundle", default=BUNDLE, help="name or folder of the guard")
    parser.add_argument("--check", metavar="TEXT", help="print the probabilities of a text, without a window")
    parser.add_argument("--check-window", metavar="TEXT", help="the same through the window, which then closes")
    options = parser.parse_args()
    if options.check is None:
        scorer = Scorer(options.bundle)
        scorer.start()
        window = Window(scorer, options.check_window)
        window.root.mainloop()
        return window.exit_code or 0
    try:
        return report(Guard.load(options.bundle, device="cpu").score(options.check))
    except TokmargError as error:
        return report(error)


if __name__ == "__main__":
    sys.exit(main())
