"""LISA_rec: first an answer in words, then a question of its own for each thing that it names.

How the paper's authors built theirs is not published; this construction is ours. Image features, and the keys and values
of image and system text, are reused. The words are the same model's, so it is one set of weights.
"""

from dataclasses import replace

from pixellm.cost import bill
from pixellm.cost.bill import Bill, Line, Memory
from pixellm.cost.language import LanguageSystem
from pixellm.cost.memory import parameters
from pixellm.cost.scenario import Scenario

# "What is … in this image? Please output segmentation mask." with its role markers, and "Sure, it is … ."
ASK_TOKENS, REPLY_TOKENS = 20, 6


class ByPhrase:
    """Asks a system once for each phrase.

    Args:
        system: writes the words and decodes the masks.
    """

    def __init__(self, system: LanguageSystem) -> None:
        self.name, self.system = f"{system.name}:rec", system

    def bill(self, scenario: Scenario) -> Bill:
        """First answer and replies."""
        if not scenario.cache:
            raise ValueError(f"{self.name}: expected a cache, got none. Leave --no-cache out.")
        system, targets = self.system, scenario.targets
        prefix, asked = self._again(scenario)
        words, reply = replace(scenario, targets=0), replace(scenario, answer_tokens=REPLY_TOKENS, targets=1)
        text, _ = system.decoding_lines(words, system.start(words), system.step)
        answer, group = system.decoding_lines(reply, prefix + asked, system.step)
        tokens = text.calls + targets * answer.calls
        mean = (text.total + targets * answer.total) / max(1, tokens)
        lines = [
            *system.image_lines(1),
            Line(bill.PREFILL, system.prefill(scenario), 1, parameters(system.model.language_model)),
            Line(bill.PHRASES, system.step(asked, prefix), targets),
            Line(bill.TEXT, mean, tokens),
            Line(bill.GROUP, group.flops, targets),
            system.mask_line(targets),
        ]
        return Bill(self.name, tuple(lines))

    def memory(self, scenario: Scenario) -> Memory:
        """One question at a time."""
        system = self.system
        prefix, asked = self._again(scenario)
        longest = max(system.length(replace(scenario, targets=0)), prefix + asked + REPLY_TOKENS + system.group)
        return system.memory_of(longest, prefix, min(1, scenario.targets))

    def _again(self, scenario: Scenario) -> tuple[int, int]:
        """Tokens that are kept, and tokens of the question for one phrase."""
        phrase = round(scenario.answer_tokens / max(1, scenario.targets))
        return self.system.image_tokens + scenario.system_tokens, ASK_TOKENS + phrase
