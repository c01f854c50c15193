"""Labels of generated images: confident predictions, or the condition they were made for."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_labelers(register):
    register("confidence", "xraygan_pseudolabel.labelers:Confidence")
    register("condition", "xraygan_pseudolabel.labelers:Condition")
    register("fill_up", "xraygan_pseudolabel.labelers:FillUp")
