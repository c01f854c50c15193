"""Metrics of a trained run: of its classifier, of the generated images, and of both together."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_metrics(register):
    register("auc", "xraygan_metrics.classification:AUC")
    register("average_precision", "xraygan_metrics.average_precision:AveragePrecision")
    register("classification", "xraygan_metrics.classification:Classification")
    register(
        "sensitivity_at_specificity", "xraygan_metrics.operating_point:SensitivityAtSpecificity"
    )
    register("subgroups", "xraygan_metrics.subgroups:Subgroups")
    register("calibration", "xraygan_metrics.calibration:Calibration")
    register("inception_score", "xraygan_metrics.distances:InceptionScore")
    register("frechet_classifier", "xraygan_metrics.distances:FrechetClassifier")
    register("frechet", "xraygan_metrics.distances:Frechet")
    register("frechet_per_class", "xraygan_metrics.distances:FrechetPerClass")
    register("fid", "xraygan_metrics.distances:FID")
    register("kid", "xraygan_metrics.kernel:KID")
    register("precision_recall", "xraygan_metrics.manifold:PrecisionRecall")
    register("density_coverage", "xraygan_metrics.manifold:DensityCoverage")
    register("ms_ssim", "xraygan_metrics.diversity:MSSSIM")
    register("classification_accuracy_score", "xraygan_metrics.fresh:ClassificationAccuracyScore")
    register("copies", "xraygan_metrics.copies:Copies")


@hookimpl
def xraygan_register_extractors(register):
    register("inception", "xraygan_metrics.inception:Inception")
