"""LISA_rec: first an answer in words, then a question of its own for each thing that it names.

Costs of `pixellm.baselines.two_stage` with one model for both stages: image features, and the keys and values of image
and system text, are reused.
"""

from dataclasses import replace

from pixellm.cost import bill
from pixellm.cost.bill import Bill, Line, Memory
from pixellm.cost.language import LanguageSystem
from pixellm.cost.memory import parameters
from pixellm.cost.scenario import Scenario

# "Segment ….", with its role markers; and "Sure, it is … ."
ASK_TOKENS, REPLY_TOKENS = 12, 6


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
        """All phrases at once, each with keys and values of its own, as they are asked there."""
        system, targets = self.system, scenario.targets
        prefix, asked = self._again(scenario)
        replies = targets * (prefix + asked + REPLY_TOKENS + system.group)
        cached = max(system.length(replace(scenario, targets=0)), replies)
        return system.memory_of(cached, prefix, min(1, targets))

    def _again(self, scenario: Scenario) -> tuple[int, int]:
        """Tokens that are kept, and tokens of the question for one phrase."""
        return self.system.image_tokens + scenario.system_tokens, ASK_TOKENS + scenario.phrase_tokens
