"""The SEEM-style baseline, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from pixellm.baselines.seem.configuration import SeemConfig
from pixellm.baselines.seem.modeling import SeemForGrounding
from pixellm.baselines.seem.predictor import SeemPredictor
from pixellm.baselines.seem.processing import SeemBatch, SeemProcessor

AutoConfig.register(SeemConfig.model_type, SeemConfig)
AutoModel.register(SeemConfig, SeemForGrounding)
AutoProcessor.register(SeemConfig, SeemProcessor)

__all__ = ["SeemBatch", "SeemConfig", "SeemForGrounding", "SeemPredictor", "SeemProcessor"]
