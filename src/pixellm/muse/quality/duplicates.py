"""Near-duplicates: MinHash finds candidate pairs, the similarity of their texts decides.

Two records are near-duplicates where question and answer have almost the same letters, or where two questions about
the same image have.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pixellm.muse.quality.checks import DEFAULT, Issue, QualityRules, check
from pixellm.muse.records import MuseRecord

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 5  # letters
PERMUTATIONS = 64
CANDIDATE = 0.8  # Jaccard similarity from which on MinHash reports most pairs
SAME = 0.9  # similarity of question and answer, anywhere: texts about other objects differ more
SAME_QUESTION = 0.8  # similarity of questions about the same image: a word exchanged


class DuplicateIndex:
    """Index of the records so far; add them in a fixed order, the first of two stays.

    Args:
        repeats: see `QualityRules`.
    """

    def __init__(self, repeats: int = 0) -> None:
        from datasketch import MinHashLSH

        self._index = MinHashLSH(threshold=CANDIDATE, num_perm=PERMUTATIONS)
        self._texts: dict[str, str] = {}
        self._questions: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by image
        self._repeats, self._repeated = repeats, Counter[str]()

    def add(self, record: MuseRecord) -> str | None:
        """Return the reason why the record is a near-duplicate of an earlier one; if it is none, add it."""
        question, text = _plain(record.question), _plain(f"{record.question} {record.text}")
        questions = self._questions[record.image.coco_url or record.image.file_name]
        for record_id, earlier in questions:
            if similarity(question, earlier) >= SAME_QUESTION:
                return f"record {record_id} asks almost the same of this image"
        questions.append((record.record_id, question))
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


def check_all(records: Iterable[MuseRecord], rules: QualityRules = DEFAULT) -> Iterator[tuple[MuseRecord, list[Issue]]]:
    """Yield each record with its issues, by itself and beside the good records before it."""
    index, ids = DuplicateIndex(rules.repeats), set()
    for record in records:
        issues = check(record, rules)
        if record.record_id in ids:
            issues.append(Issue("near_duplicate", f"record {record.record_id} is there already"))
        elif not issues and (reason := index.add(record)):
            issues.append(Issue("near_duplicate", reason))
        ids.add(record.record_id)
        yield record, issues


def similarity(first: str, second: str) -> float:
    """Return the Jaccard similarity of two texts: letter sequences that they share, of those in either."""
    a, b = _shingles(first), _shingles(second)
    return len(a & b) / max(1, len(a | b))


def _plain(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text.lower()).strip()


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _sketch(text: str) -> "MinHash":
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([shingle.encode() for shingle in sorted(_shingles(text))])
    return sketch
