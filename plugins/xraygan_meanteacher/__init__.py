"""Mean teacher (Tarvainen and Valpola, 2017): consistency with the classifier's own average."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_scores(register):
    register("mean_teacher", "xraygan_meanteacher.consistency:MeanTeacher")
