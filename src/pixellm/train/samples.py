"""Training samples of a mixture of datasets."""

from dataclasses import dataclass, field

from torch.utils.data import Dataset

from pixellm.data.chat import Chat, LazySample, draft
from pixellm.data.mixture import Mixture
from pixellm.data.semantic import LabelMaps
from pixellm.types import Sample

CHARACTERS_PER_TOKEN = 4  # English, about; lengths are only compared with each other
TYPICAL_CHARACTERS = 60  # characters of a short question and its answer


@dataclass
class ChatSamples(Dataset):
    """Sample i: the mixture's record i, with conversations about it.

    Args:
        mixture: the datasets.
        chat: the conversation builder.
        group_size: tokens of a codebook group.
    """

    mixture: Mixture
    chat: Chat = field(default_factory=Chat)
    group_size: int = 6

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.mixture)

    def draft(self, index: int) -> LazySample:
        """Return sample number `index` before its image is read."""
        return draft(*self.mixture[index], self.chat)

    def __getitem__(self, index: int) -> Sample:
        return self.draft(index).load()

    def length(self, index: int) -> float:
        """Estimate how many tokens of text sample `index` has."""
        source = self.mixture.plan[index].source
        if isinstance(self.mixture.datasets[source], LabelMaps):  # a look at its names would read the map
            groups = self.chat.questions * (1 + self.chat.targets) / 2
            return self.chat.questions * TYPICAL_CHARACTERS / CHARACTERS_PER_TOKEN + groups * self.group_size
        drafted = self.draft(index)
        return drafted.characters / CHARACTERS_PER_TOKEN + drafted.groups * self.group_size
