"""Labels of generated images: confident predictions, or the condition they were made from."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_labelers(register):
    register("confidence", "xraygan_pseudolabel.labelers:Confidence")
    register("condition", "xraygan_pseudolabel.labelers:Condition")
