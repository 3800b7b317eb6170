"""What each measure and attack is, in one line, for readers who have never seen one. Plug-ins may have no entry."""

from __future__ import annotations

from efface.report.text import words

TITLES = {
    "probability": "Answer probability",
    "rouge": "ROUGE-L recall",
    "rouge_f1": "ROUGE-L F1",
    "privleak": "PrivLeak",
    "choice_accuracy": "Multiple choice",
    "mcq_options": "Multiple choice by option",
    "mcq_letters": "Multiple choice by letter",
    "entailment": "Entailment of the right answer",
    "ue_mcq": "UE, multiple choice",
    "ue_open_qa": "UE, open answers",
    "ue_avg": "UE",
    "ut_mcq": "UT, multiple choice",
    "ut_open_qa": "UT, open answers",
    "ut_avg": "UT",
    "options_probability": "Probability among options",
    "knn_accuracy": "Nearest-neighbour probe",
    "cka_reference": "Likeness to the reference",
    "cka_target": "Likeness to the target",
    "mia_loss": "Membership, by loss",
    "mia_zlib": "Membership, by loss and size",
    "mia_min_k": "Membership, Min-K",
    "mia_min_k_plus": "Membership, Min-K++",
    "mia_reference": "Membership, against a reference",
    "mia_gradnorm": "Membership, by gradient",
    "mia_confidence": "Membership, by confidence",
    "mia_worst": "Membership, worst case",
    "weights_moved": "Weights that changed",
    "fade": "FADE",
    "fade_exact": "FADE, exact at every step",
    "agl": "AGL",
    "agr": "AGR",
    "h_lr": "H-LR",
    "pca_shift": "PCA shift",
    "lens_rank": "Logit lens",
    "rel_diff": "Relative AUC difference",
}
MEASURES = {
    "probability": "probability the model gives each token of the right answer (geometric mean)",
    "probability_paraphrased_question": "the same, with the question worded differently",
    "rouge": "share of the right answer's words that the model's own answer contains, in order",
    "rouge_paraphrased_question": "the same, with the question worded differently",
    "exact_match": "share of answers that equal the right one",
    "exact_memorisation": "share of the right answer's tokens that the model would choose itself",
    "extraction_strength": "share of the answer the model completes on its own, given the start of it",
    "truth_ratio": "weight the model gives the true answer beside false ones; 0.5 is no preference",
    "choice_accuracy": "how often the right answer beats false ones of the same kind",
    "options_probability": "probability of the right one among the options",
    "accuracy": "share of rows answered rightly",
    "unlearning_accuracy": "share of the forget rows answered wrongly",
    "forget_quality": "p-value: 1 cannot be told from the reference, near 0 is clearly different",
    "model_utility": "harmonic mean over everything that was to be kept",
    "mia_loss": "can someone tell from the loss what was trained on? 0.5 is a coin toss",
    "mia_zlib": "the same, with the loss set against how far the text compresses",
    "mia_min_k": "the same, from the least probable tokens",
    "mia_min_k_plus": "the same, from tokens improbable for their place",
    "mia_reference": "the same, with the loss set against the reference model's",
    "mia_gradnorm": "the same, from the size of the gradient",
    "mia_confidence": "the same, from the model's confidence",
    "mia_worst": "how far the most telling membership test is from what it says of the reference",
    "privleak": "membership signal relative to the reference, in percent; 0 is the same",
    "weights_moved": "share of weights that differ from the model before",
    "repetition_rate": "share of the answer that repeats itself; a broken model babbles",
    "knn_accuracy": "can the subject still be read from the model's inner states?",
    "linear_probe": "can the subject still be read from the inner states by a linear rule?",
    "cka_reference": "how alike the inner states are to the reference's; 1 is the same",
    "cka_target": "how alike the inner states are to those before; 1 is the same",
    "fade": "how far what it says is from what the reference says, in nats per answer; 0 cannot be told apart",
    "fade_exact": "the same, with the whole distribution at every step instead of the word that was drawn",
    "agl": "agreement of outputs with the reference on four sets; 1 is the same",
    "agr": "agreement of inner states with the reference; 1 is the same",
    "h_lr": "harmonic mean of AGL and AGR",
    "pca_shift": "how far the centre of the inner states moved, in units of their spread before",
    "lens_rank": "does the answer stand first where the head reads an earlier layer? 1 is always",
    "attribute_probe": "can an attribute be read from the inner states by a rule learned on kept people?",
}
FORMS = {"cka_reference_compat": "released form", "letter_accuracy_compat": "evaluation harness form"}
"""Whose form a metric ending in _compat reproduces, where it is not the common harness's."""
ATTACKS = {
    "round_weights": "The weights are rounded to fewer bits, as is done to make models smaller. What was only lightly "
    "covered can show again.",
    "relearn": "The model is trained a few steps more, and asked what was not part of that training.",
    "relearn_in_domain": "The model is trained a few steps on some of the forgotten facts, and asked about the others.",
    "relearn_benign": "The model is trained a few steps on harmless data that holds no tested answer, and asked again.",
}
THREATS = {
    "black-box": "an attacker who can only ask questions",
    "grey-box": "an attacker who also sees probabilities or activations",
    "white-box": "an attacker who has the weights",
}
PRICES = {
    "label_tokens": "tokens of answers to learn from",
    "context_tokens": "tokens of context for each question",
    "trained_parameters": "parameters trained",
    "bits": "bits put in at most",
}
LABELS = {
    "erased": "Neither the answers nor any attack that was run shows more than a model that never saw the data.",
    "concealed": "The answers no longer show it, but an attack brings it back: the weights still hold it.",
    "retained": "The answers still show it.",
    "collapsed": "The model also lost what it was meant to keep, so that its silence says little.",
    "inconclusive": "The evidence does not decide.",
}


def title(name: str) -> str:
    """Name of a measure or attack for a heading."""
    return TITLES.get(name, words(name))
