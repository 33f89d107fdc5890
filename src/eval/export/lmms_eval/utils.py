import re


def doc_to_visual(doc):
    return [doc["video"]]


def process_results(doc, results):
    given = results[0].strip()
    if doc["options"]:
        label = re.match(r"\W*(?:[Oo]ption\s+)?([A-Z]|[0-9]+)\b", given)
        given = label.group(1) if label else ""
    # A request whose retries failed has a text of lmms-eval, which is no answer.
    is_failed = given.startswith("[LMMS_EVAL_REQUEST_FAILED")
    return {"score": float(not is_failed and given in doc["answers"])}
