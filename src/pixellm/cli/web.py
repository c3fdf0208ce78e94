"""`pixellm web`: a page in the browser."""

from pixellm.cli.common import Device, DeviceOption, Dtype, DtypeOption, QuantizeOption
from pixellm.cli.serve import Host, KeyFile, ModelName, Name, Port, run_server
from pixellm.hub.models import MINI
from pixellm.utils.sockets import LOOPBACK


def web(
    model: ModelName = MINI,
    host: Host = LOOPBACK[0],
    port: Port = 8000,
    name: Name = None,
    keys: KeyFile = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    quantize: QuantizeOption = None,
) -> None:
    """Serve a web page with image, answer and masks, and the API of `pixellm serve` beside it.

    The limits are the defaults of `pixellm serve`; `pixellm serve --page` has all of its options.
    """
    run_server(model, host, port, name, keys, device, dtype, quantize, None, limits={"page": True}, worker={})
