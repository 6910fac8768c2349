"""The prompts of the papers, word for word: data, no logic beyond filling them in."""

from __future__ import annotations

# STIC, appendix A: the captioning prompts P of Algorithm 1, used again as P of Algorithm 2.
STIC_CAPTION = (
    "Illustrate the details of the picture.",
    "Summarize the visual content presented.",
    "Explain what is depicted in the photograph.",
    "Outline the key elements captured in the image.",
    "Detail the composition and subjects within the frame.",
    "Convey the atmosphere and mood represented in the snapshot.",
    "Interpret the scene shown in the image.",
    "Identify and describe the main focal points in the visual.",
)

# STIC, appendix A: the hallucination prompts P_hallu of Algorithm 1.
STIC_BAD = (
    "Describe the image with imaginative objects that may exist in the scene.",
    "Enrich the description by adding hypothetical objects or characters that could be part of the scene.",
    "Suggest and detail practical items or people that could logically inhabit the image's setting.",
    "Incorporate elements that, though absent, would seamlessly fit into the context of the picture.",
    "Imagine and describe additional everyday objects or activities taking place just out of frame.",
    "Augment the scene with details of potential events or items that are plausible.",
    "Conceive of and detail natural elements, such as weather or animals, that could realistically enter the scene. "
    "Make the description affirmative.",
    "Invent and incorporate details of practical tools, vehicles, or gadgets that could be expected in a similar scenario.",
)

# STIC, appendix A: the well-curated captioning prompt x_g of Algorithm 1.
STIC_STEP_BY_STEP = (
    "Please provide a detailed description of the image, focusing on the following. Identify the main subjects (people, "
    "animals, objects) in the image and describe what they are doing. Describe the setting of the image. Is it indoors or "
    "outdoors? What kind of environment or location does it depict? What mood does the image convey? Are there any specific "
    "elements (such as lighting, weather, expressions) that contribute to this atmosphere? Describe the dominant colors and "
    "the overall composition. How do these elements affect the image's impact? Point out any details or symbols that might "
    "be relevant to understanding the image's meaning or context. If applicable, provide interpretations of what the image "
    "might represent or communicate."
)

# CSR, appendix: the questions that candidates answer.
CSR_DESCRIBE = (
    "What is this photo about?",
    "Can you describe the main features of this image for me?",
    "What's happening in the scene?",
    "What do you see happening in this image?",
    "What do you think is going on in this snapshot?",
    "Write a detailed description of the given image.",
    "What are the key elements in this picture?",
    "Can you elaborate on the elements of the picture provided?",
    "Analyze the image in a comprehensive and detailed manner.",
    "Explain the visual content of the image in great detail.",
    "Describe the following image.",
)


# CSR, Table 3: the policy as its own judge (the self-rewarding baseline).
JUDGE_PAIR = (
    "Now you act as a judge, helping me determine which of the two texts I provide is closer to the given image and has fewer "
    "errors.\n{line}\nResponse 1:\n{first}\nResponse 2:\n{second}\n{line}\nPlease strictly follow the following format "
    "requirements when outputting, and don’t have any other unnecessary words.\nOutput Format:\nresponse 1 or response 2."
)


def judge_pair(first: str, second: str) -> str:
    """CSR's Table 3 with two responses to compare."""
    return JUDGE_PAIR.format(line="*" * 77, first=first, second=second)


def infuse(description: str, instruction: str, form: str = "paper") -> str:
    """STIC section 4, stage 2: the instruction with the model's own description before it (also DaR at inference).

    The forms are the paper's and `as_released`, which differ in line breaks. The image stands before both: the paper's text could
    also be read as description, image, instruction.
    """
    if form == "as_released":
        return f"Image description:\n{description}\n\n{instruction}"
    return f"Image description: {description}\n{instruction}"
