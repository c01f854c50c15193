"""The paper's regularization scores: Inception Score, MMD, Gram matrices and style transfer."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_scores(register):
    register("inception", "xraygan_scores.distributions:InceptionScoreLoss")
    register("mmd", "xraygan_scores.distributions:MMD")
    register("gram", "xraygan_scores.style:GramStyle")
    register("style_transfer", "xraygan_scores.style:StyleTransfer")
