"""The paper's metrics: AUC, precision, recall, accuracy, FID and Inception Score."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_metrics(register):
    register("auc", "xraygan_metrics.classification:AUC")
    register("classification", "xraygan_metrics.classification:Classification")
    register("inception_score", "xraygan_metrics.distances:InceptionScore")
    register("frechet_classifier", "xraygan_metrics.distances:FrechetClassifier")
    register("fid", "xraygan_metrics.distances:FID")
