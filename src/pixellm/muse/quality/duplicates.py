"""Records that say what another one says already: MinHash finds the pairs to look at, the words decide.

Two records are near-duplicates where their questions and answers are almost the same letters, or where two questions
about one image are.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pixellm.muse.quality.checks import DEFAULT, Fault, Rules, check
from pixellm.muse.records import MuseRecord

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 5  # letters
PERMUTATIONS = 64
CANDIDATE = 0.8  # Jaccard similarity about which MinHash hands over a pair
SAME = 0.9  # of question and answer, anywhere: the same words about other things differ more
SAME_QUESTION = 0.8  # of the questions about one image: a word exchanged


class Seen:
    """The records so far; add them in a fixed order, the first of two stays.

    Args:
        repeats: see `Rules`.
    """

    def __init__(self, repeats: int = 0) -> None:
        from datasketch import MinHashLSH

        self._index = MinHashLSH(threshold=CANDIDATE, num_perm=PERMUTATIONS)
        self._texts: dict[str, str] = {}
        self._questions: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by image
        self._repeats, self._repeated = repeats, Counter[str]()

    def add(self, record: MuseRecord) -> str | None:
        """Why the record is a near-duplicate of one before it; if it is none, later ones are compared with it."""
        question, text = _plain(record.question), _plain(f"{record.question} {record.text}")
        asked_of_image = self._questions[record.image.coco_url or record.image.file_name]
        for record_id, asked in asked_of_image:
            if similarity(question, asked) >= SAME_QUESTION:
                return f"record {record_id} asks almost the same of this image"
        asked_of_image.append((record.record_id, question))
        sketch = _sketch(text)
        for record_id in sorted(self._index.query(sketch)):
            if similarity(text, self._texts[record_id]) >= SAME:
                self._repeated[record_id] += 1
                if self._repeated[record_id] > self._repeats:
                    return f"record {record_id} has almost the same question and answer"
                return None
        self._index.insert(record.record_id, sketch, check_duplication=False)
        self._texts[record.record_id] = text
        return None


def check_all(records: Iterable[MuseRecord], rules: Rules = DEFAULT) -> Iterator[tuple[MuseRecord, list[Fault]]]:
    """Each record with all that is wrong with it, by itself and beside those before it that are good."""
    seen, ids = Seen(rules.repeats), set()
    for record in records:
        faults = check(record, rules)
        if record.record_id in ids:
            faults.append(Fault("near_duplicate", f"record {record.record_id} is there already"))
        elif not faults and (reason := seen.add(record)):
            faults.append(Fault("near_duplicate", reason))
        ids.add(record.record_id)
        yield record, faults


def similarity(one: str, other: str) -> float:
    """Jaccard: letters in a row that two texts share, of those in either."""
    first, second = _shingles(one), _shingles(other)
    return len(first & second) / max(1, len(first | second))


def _plain(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text.lower()).strip()


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _sketch(text: str) -> "MinHash":
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([one.encode() for one in sorted(_shingles(text))])
    return sketch
