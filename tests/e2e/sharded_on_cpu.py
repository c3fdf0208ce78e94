"""`pixellm`, with sharding on the CPU: accelerate offers it on accelerators only, torch and gloo here too."""

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from pixellm.cli import main

init = PartialState.__init__


def sharding(self: PartialState, *args, **kwargs) -> None:
    fresh = not self._shared_state
    init(self, *args, **kwargs)
    if fresh and self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = sharding
main()
