"""Two-way transformer of SAM (arXiv 2304.02643, appendix A): prompt tokens and image positions attend to each other.

Shapes:  T targets · Q prompt tokens · P image positions · C width
"""

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than that of its input.

    One side has but a few tokens, so only that side is projected, and takes the other side's projection into itself:
    (W x)ᵀ y = xᵀ (Wᵀ y). The many positions of the other are multiplied by heads · few columns, not by the inner width.
    """

    def __init__(self, dim: int, heads: int, inner_dim: int) -> None:
        super().__init__()
        if inner_dim % heads:
            raise ValueError(f"expected an attention width divisible by its {heads} heads, got {inner_dim}.")
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(T, Q, C), (T, P, C) and (T, P, C) → (T, Q, C)."""
        weights = self.weights(query, key)
        if query.shape[1] <= key.shape[1]:
            read = weights.flatten(1, 2) @ value
            values = read.unflatten(1, (self.heads, -1)) @ self._of_heads(self.v_proj).mT
            return self.out_proj(values.transpose(1, 2).flatten(2) + self.v_proj.bias)  # weights sum to 1
        values = self._heads(self.v_proj(value)) @ self.out_proj.weight.mT.unflatten(0, (self.heads, -1))
        values = values + self.out_proj.bias / self.heads  # weights sum to 1 in each head
        return weights.transpose(2, 3).flatten(1, 2).mT @ values.flatten(1, 2)

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention of (T, Q, C) to (T, P, C) in each head: (T, heads, Q, P), sums to 1 over P."""
        if query.shape[1] <= key.shape[1]:
            few = self._heads(self.q_proj(query)) * self._scale
            # The bias of the keys adds the same to all scores of a query, which softmax takes away.
            scores = _scores((few @ self._of_heads(self.k_proj)).flatten(1, 2), key)
            return scores.unflatten(1, (self.heads, -1)).softmax(dim=-1)
        few = self._heads(self.k_proj(key)) * self._scale
        bias = few @ self.q_proj.bias.unflatten(0, (self.heads, -1, 1))
        scores = _scores((few @ self._of_heads(self.q_proj)).flatten(1, 2), query) + bias.flatten(1, 2)
        return scores.unflatten(1, (self.heads, -1)).softmax(dim=2).transpose(2, 3)

    @property
    def _scale(self) -> float:
        return (self.q_proj.out_features // self.heads) ** -0.5

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _of_heads(self, projection: nn.Linear) -> Tensor:
        """Weight (heads, width of one, C)."""
        return projection.weight.unflatten(0, (self.heads, -1))


def _scores(few: Tensor, many: Tensor) -> Tensor:
    """(T, F, C) and (T, P, C) → (T, F, P); this way round the product reads the positions as they lie."""
    return (many @ few.mT).mT.contiguous()


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, to the image, pass an MLP; then the image attends to the tokens."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // 2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, token_code: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        # The first block's tokens are their own position code: they enter alone, without residual.
        coded = tokens if self.first else tokens + token_code
        attended = self.self_attn(coded, coded, tokens)
        tokens = self.norm1(attended if self.first else tokens + attended)
        image_keys = image + image_code
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_code, image_keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        read = self.cross_attn_image_to_token(image_keys, tokens + token_code, tokens)
        # In place, a large tensor less to be fetched from the system; not under autocast, where it would round.
        image = self.norm4(read.add_(image) if read.dtype == image.dtype else image + read)
        return tokens, image


class TwoWayTransformer(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_dim: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, heads, mlp_dim, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Read the image for each target.

        Args:
            tokens: (T, Q, C).
            image: (T, P, C).
            image_code: (1, P, C) position code of the image.

        Returns:
            The tokens (T, Q, C) and the image (T, P, C) after both have read each other.
        """
        code = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, code, image_code)
        attended = self.final_attn_token_to_image(tokens + code, image + image_code, image)
        return self.norm_final_attn(tokens + attended), image
