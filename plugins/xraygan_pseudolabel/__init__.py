"""Labels of generated images: confident predictions (pseudo-labels), or their conditions."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_labelers(register):
    register("class_adaptive", "xraygan_pseudolabel.labelers:ClassAdaptive")
    register("condition", "xraygan_pseudolabel.labelers:Condition")
    register("confidence", "xraygan_pseudolabel.labelers:Confidence")
    register("entropy", "xraygan_pseudolabel.labelers:Entropy")
    register("fill_up", "xraygan_pseudolabel.labelers:FillUp")
    register("margin", "xraygan_pseudolabel.labelers:Margin")
    register("teacher", "xraygan_pseudolabel.labelers:Teacher")


@hookimpl
def xraygan_register_scores(register):
    register("unlabelled_pseudo_label", "xraygan_pseudolabel.unlabelled:UnlabelledPseudoLabel")
