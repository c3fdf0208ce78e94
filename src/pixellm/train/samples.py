"""Records of data sets → training samples, by plan."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.utils.data import Dataset

from pixellm.data.chat import Chat, LazySample, draft
from pixellm.data.plan import MixturePlan
from pixellm.data.records import RecordDataset
from pixellm.data.semantic import LabelMaps
from pixellm.types import Sample

CHARACTERS_PER_TOKEN = 4  # of English, about; lengths are only compared with each other
TYPICAL_CHARACTERS = 60  # of a short question and its answer


@dataclass
class ChatSamples(Dataset):
    """Sample i: the record that the plan draws, with conversations about it.

    Args:
        sets: the data sets.
        plan: over them, in the same order.
        chat: see `Chat`.
        group_size: tokens of a codebook group.
    """

    sets: Sequence[RecordDataset]
    plan: MixturePlan
    chat: Chat = field(default_factory=Chat)
    group_size: int = 6

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self.plan.epoch_length

    def draft(self, index: int) -> LazySample:
        """Sample number `index` before its image is read."""
        draw = self.plan[index]
        return draft(self.sets[draw.source][draw.record], draw.rng, self.chat)

    def __getitem__(self, index: int) -> Sample:
        return self.draft(index).load()

    def length(self, index: int) -> float:
        """About how many tokens of text sample `index` has."""
        if isinstance(self.sets[self.plan[index].source], LabelMaps):  # a look at its names would read the map
            groups = self.chat.questions * (1 + self.chat.targets) / 2
            return self.chat.questions * TYPICAL_CHARACTERS / CHARACTERS_PER_TOKEN + groups * self.group_size
        drafted = self.draft(index)
        return drafted.characters / CHARACTERS_PER_TOKEN + drafted.groups * self.group_size
