"""What `pixellm ask` prints: the answer while it arrives, its phrases in the colours of their masks."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from pixellm.imaging.overlay import colour_of, ink_on
from pixellm.types import Answer, Done, Event, Target, TextPiece


def show(console: Console, question: str, events: Iterator[Event], several: bool) -> Answer:
    """Print an answer while it arrives, each phrase in the colour of its mask, then a line for each mask."""
    if several:
        console.print(Text(f"\n{question}", style="bold"))
    # What a phrase looks like is known with its mask: text waits for the next mask, or for the end.
    waiting, printed, count = "", 0, 0
    for event in events:
        match event:
            case TextPiece(piece):
                waiting += piece
            case Target(span=(start, end)):
                line = Text(waiting.rstrip())
                line.stylize(_style(count), max(0, start - printed), end - printed)
                console.print(line, end="")
                waiting, printed, count = "", printed + len(line), count + 1
            case Done(answer):
                console.print(Text(waiting.rstrip()))
                _show_masks(console, answer)
                return answer
    raise AssertionError("an answer without an end")


def _show_masks(console: Console, answer: Answer) -> None:
    if not answer.targets:
        console.print("  no mask")
    width = max((len(target.phrase) for target in answer.targets), default=0)
    for index, target in enumerate(answer.targets):
        share = target.area / (answer.image.width * answer.image.height)
        where = "empty mask"
        if box := target.box:
            x, y, box_width, box_height = box
            where = f"score {target.score:.2f}   box {box_width}×{box_height} at {x}, {y}"
        name = target.phrase or f"mask {index + 1}"
        line = Text.assemble("  ", (f" {name} ", _style(index)), " " * (width - len(target.phrase)))
        console.print(line.append(f"  {target.area:>9,} px {share:6.1%}   {where}"))


def _style(index: int) -> str:
    return f"{ink_on(index)} on {colour_of(index)}"
