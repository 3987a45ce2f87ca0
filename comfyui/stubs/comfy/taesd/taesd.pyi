from torch import nn

class TAESD(nn.Module):
    def __init__(
        self,
        encoder_path: str | None = ...,
        decoder_path: str | None = ...,
        latent_channels: int = ...,
    ) -> None: ...
