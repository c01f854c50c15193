"""The names of the splits, in recipes and files and in sentences."""

#: split -> how a sentence names its images; in the order in which the splits are stored
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test", "unlabelled": "unlabelled"}

SPLITS = tuple(SPLIT_NAMES)

#: splits from which networks learn, and splits that are measured
LEARNED, MEASURED = ("train", "unlabelled"), ("val", "test")
