"""What the numbers on capability beside safety are called in a few words, wherever they are shown."""

OF_PROMPTS = {
    ("refuse_rate", "forbidden"): "harmful prompts refused",
    ("refuse_rate", "allowed"): "harmless prompts refused",
    ("comply_rate", "allowed"): "harmless prompts answered",
    ("neither_rate", "allowed"): "harmless prompts neither",
}
"""Of answers to prompts without an attack, by statistic and label of the prompts."""
OF_OBSERVATION = {
    "question_refuse_rate": "questions refused",
    "right_rate": "questions right",
    "neutral_loss": "loss on neutral texts",
}
"""Of the observation `capability`, by statistic."""
