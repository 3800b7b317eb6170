"""Update rules: how the forget and the retain gradient become one step. One file a rule."""
