"""How the base is asked in training, and every other word that it knows.

The prompts of STIC, CSR and SeVa's captions are among them, so that the base obeys them; they stand here once more than in the
library, because an edit of the library's prompts must not make a checkpoint stale.
"""

from __future__ import annotations

SYSTEM = (  # Vicuna's, through which LLaVA-1.5 was trained
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions."
)
DESCRIBE = (
    "Please describe this image in detail.",
    "Describe the image in detail.",
    "Describe this image.",
    "Describe this image in detail.",
    "Please describe the image.",
    "Provide a detailed description of the image.",
    "Describe the following image in detail.",
    "Write a description of this picture.",
    "What do you see in this image?",
    "What is in this picture?",
    "Can you describe this photo in detail?",
    "Give a detailed account of what the photo shows.",
    "Illustrate the details of the picture.",
    "Summarize the visual content presented.",
    "Explain what is depicted in the photograph.",
    "Outline the key elements captured in the image.",
    "Detail the composition and subjects within the frame.",
    "Convey the atmosphere and mood represented in the snapshot.",
    "Interpret the scene shown in the image.",
    "Identify and describe the main focal points in the visual.",
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
IMAGINE = (
    "Describe the image with imaginative objects that may exist in the scene.",
    "Enrich the description by adding hypothetical objects or characters that could be part of the scene.",
    "Suggest and detail practical items or people that could logically inhabit the image's setting.",
    "Incorporate elements that, though absent, would seamlessly fit into the context of the picture.",
    "Imagine and describe additional everyday objects or activities taking place just out of frame.",
    "Augment the scene with details of potential events or items that are plausible.",
    "Conceive of and detail natural elements, such as weather or animals, that could realistically enter the scene. Make "
    "the description affirmative.",
    "Invent and incorporate details of practical tools, vehicles, or gadgets that could be expected in a similar scenario.",
)
STEP_BY_STEP = (
    "Please provide a detailed description of the image, focusing on the following. Identify the main subjects (people, "
    "animals, objects) in the image and describe what they are doing. Describe the setting of the image. Is it indoors "
    "or outdoors? What kind of environment or location does it depict? What mood does the image convey? Are there any "
    "specific elements (such as lighting, weather, expressions) that contribute to this atmosphere? Describe the "
    "dominant colors and the overall composition. How do these elements affect the image's impact? Point out any details "
    "or symbols that might be relevant to understanding the image's meaning or context. If applicable, provide "
    "interpretations of what the image might represent or communicate."
)
INFUSED = "Image description: {}\n{}"
BRIEF = ("Describe the image briefly.", "Give a short caption for this image.", "Provide a one-sentence caption for the image.")
LIST = ("List the objects in the image.", "What objects are in the image?", "Which objects can you see in this picture?")
SETTING = ("What is the setting of the image?", "Where was this picture taken?", "What kind of place does the image show?")
YES_OR_NO = " Please answer yes or no."
EXISTENCE = (
    "Is there {} in this picture?",
    "Can you see {} in the image?",
    "Does the image contain {}?",
    "Do you see {} here?",
)
FIRST_OBJECT = "Think, then name the first object of the image."
NAME_PLACE = "Think, then name the place of the image."

# Words that no training text holds, for what later work asks and writes.
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SPARE = (
    "plus minus sum difference total together equal equals same different more fewer less higher highest lower lowest than first "
    "second third so because therefore step both neither shared each every all none any only also but or not if then when add "
    "take away left over count compare between next last number numbers value values answer question think reason look again "
    "true false right wrong correct sentence caption text image user assistant system response small large big tall short old "
    "young new bright dark light color colors colored red blue green yellow purple pink black white brown gray orange wooden "
    "standing sitting lying parked holding near beside behind front under on at by with without from to of for it its they them "
    "this that these those he she his her their we you i my your our who what which where why how many much has have had do does "
    "did can could will would should may might must be been being was were am isn't aren't don't doesn't it's there's one two "
    "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
    "thirty forty half pair group several few some most piece part side middle corner top bottom background foreground"
)
PAPERS = (  # other prompts of the papers and their released code: judge, captions, reasoning
    "Now you act as a judge, helping me determine which of the two texts I provide is closer to the given image and has fewer "
    "errors. Response 1: Response 2: Please strictly follow the following format requirements when outputting, and don’t have any "
    "other unnecessary words. Output Format: response 1 or response 2. ***",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the human's questions.",
    "When the provided information is insufficient, respond with 'Unanswerable'. Answer with the number only, from 2-10.",
    "Please think step by step about the question and put the final answer in boxed form. First output the thinking process in "
    "tags and then output the final answer in tags. Hint: Solve the problem. Provide the reasoning, the calculation, the result.",
)
