"""HC-STVG's descriptions, broken into short sentences of one action each (Section 3.3).

    "The man in black walks to the door, opens it and then leaves."
    -> "The man in black walks to the door", "The man in black opens it", "The man in black leaves"

The paper does not say how it breaks them; these are rules, so that the result is the same
everywhere (not in the paper). A comma, "and" or "then" ends a sentence only if what follows is
another action of the same person: a verb, the pronoun, or the person named again. What somebody
else does stays with the action beside it, and what the rules do not understand stays whole.
"""

import re

# what people do in films, in base form; another word in -s is a verb where its neighbours say so
VERBS = set(
    "adjust aim answer appear applaud approach argue arrange ask attack back bend bite blow "
    "board bow breathe bring brush bump button call caress carry carve catch change chase chat "
    "check cheer chew clamp clap clean clench climb clink close collapse comb come comfort "
    "continue cook cough cover crawl cross crouch cry cut dance deal dial die dig disappear "
    "dodge drag draw dress drink drive drop dry duck eat embrace empty enter escape examine "
    "exhale exit explain extend face fall fasten feed feel fetch fight fill find finish fire "
    "fix flip fold follow gesture get give glance go grab greet grip hammer hand hang have "
    "hear help hide hit hold hop hug hurry inhale insert inspect jerk join jog juggle jump "
    "keep kick kiss kneel knock land laugh lay lead lean leap leave let lick lie lift light "
    "listen load lock look lower make march meet mount move nod nudge offer open order pace "
    "pack paint pass pat pause pay peek peel perform pet pick pinch place play plug point poke "
    "pose pour pray press pretend proceed prop pull punch push put raise reach read receive "
    "release remove rest return ride ring rip rise roll rotate rub run rush salute say scoop "
    "scratch scream search seat see seize sell send serve set sew shake shave shine shiver "
    "shoot shout shove show shrug shut sigh sing sip sit skate ski skip slam slap sleep slice "
    "slide slip smash smell smile smoke snap sneak sneeze sniff speak spin spit splash spray "
    "spread squat squeeze stab stagger stand stare start stay steal step stick stir stomp "
    "stoop stop straighten stretch stride strike stroke stroll struggle stumble swallow sway "
    "sweep swim swing switch take talk tap taste tear tell think throw tickle tie tilt tiptoe "
    "toss touch trip try tug turn twist type undress unfold unlock untie use wade wait wake "
    "walk wash watch wave wear whisper whistle wipe wrap wrestle write yawn yell zip".split())
IRREGULAR = dict(pair.split("/") for pair in (                 # past tenses
    "ate/eat began/begin bent/bend bit/bite blew/blow brought/bring caught/catch came/come "
    "cut/cut drank/drink drew/draw drove/drive fell/fall felt/feel fought/fight found/find "
    "gave/give got/get went/go had/have heard/hear held/hold hid/hide hit/hit hung/hang "
    "kept/keep knelt/kneel laid/lay lay/lie led/lead left/leave let/let lit/light made/make "
    "met/meet paid/pay put/put ran/run rang/ring read/read rode/ride rose/rise said/say "
    "sang/sing sat/sit saw/see sent/send set/set shook/shake shot/shoot shut/shut slept/sleep "
    "slid/slide spoke/speak spun/spin stood/stand stole/steal stuck/stick swam/swim "
    "swung/swing threw/throw told/tell took/take tore/tear woke/wake wore/wear "
    "wrote/write".split()))
BE = {"is", "are", "was", "were"}
DETERMINERS = set(
    "a an the his her its their this that these those two three some many both no another".split())
OBJECTS = DETERMINERS | set("him it them himself herself themselves something someone".split())
PARTICLES = set(
    "up down off out away around back forward forwards backward backwards over through along "
    "aside in on to toward towards into onto from at with by for of across behind beside past "
    "again left right next near about against after before".split())
NOT_AFTER = DETERMINERS | set("of in on at with to by from for into onto and or".split())   # a noun
NOUNS = set(
    "arms boots clothes eyes glasses gloves hands heels jeans legs pants people pyjamas shoes "
    "shorts sleeves stairs steps stripes suits sunglasses things this trousers us always as "
    "besides perhaps sideways towards upwards downwards afterwards".split())
THEN = {"then", "finally", "next", "afterwards", "later", "also"}
MALE = {"man", "boy", "guy", "gentleman", "father", "husband", "son", "grandfather", "he"}
FEMALE = {"woman", "girl", "lady", "mother", "wife", "daughter", "grandmother", "she"}
PEOPLE = MALE | FEMALE | set("person child kid baby adult soldier policeman doctor nurse".split())
JOINT = re.compile(r"\s*[,;]\s*(?:(?:and|but)\s+)?|\s+(?:and|but|then)\s+", re.IGNORECASE)
LEADING = re.compile(r"(after|when|once|while|as)\s+(.*)", re.IGNORECASE)


def split_sentences(description: str) -> list[str]:
    """Short sentences of one action each, in order, each with its subject."""
    sentences, subject = [], ""
    ends = r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)[.!?]+(?:\s+|$)"
    for part in re.split(ends, " ".join(description.split())):
        words = drop_then(part.strip(" ,;.").split())
        if not words:
            continue
        before, words = split_leading_clause(words, subject)
        sentences += before
        if before:
            subject = " ".join(before[-1].split()[:main_verb(before[-1].split())])
        lead = ""
        if (clause := LEADING.fullmatch(" ".join(words))) and "," in clause[0]:
            lead, _, rest = clause[0].partition(",")         # it stays, and is not the subject
            lead, words = f"{lead}, ", rest.split()
        if subject and words[0].lower() in ("he", "she") and agrees(words[0], subject):
            words[:1] = subject.split()
        verb = main_verb(words)
        if verb is None:                                     # no action that we know: as it is
            sentences.append(lead + " ".join(words))
            continue
        subject = " ".join(words[:verb])
        first, *others = split_clause(" ".join(words), subject, words[verb].lower())
        sentences += [lead + first, *others]
    return sentences


def split_leading_clause(words: list[str], subject: str) -> tuple[list[str], list[str]]:
    """("After the man comes in, he sits down") -> (["the man comes in"], "the man sits down").

    Else ([], words): only where the clause tells an earlier action (after, when, once) of the
    person that "he" or "she" then is.
    """
    clause, comma, rest = " ".join(words).partition(",")
    told, rest = LEADING.fullmatch(clause), rest.split()
    if not (comma and rest and told and told[1].lower() in ("after", "when", "once")):
        return [], words
    own = told[2].split()
    verb = main_verb(own)
    if own and subject and own[0].lower() in ("he", "she") and agrees(own[0], subject):
        own[:1], verb = subject.split(), len(subject.split())
    he = rest[0].lower() in ("he", "she")
    if not verb or not he or not agrees(rest[0], " ".join(own[:verb])):
        return [], words
    return [" ".join(own)], own[:verb] + rest[1:]


def split_clause(sentence: str, subject: str, verb: str) -> list[str]:
    """A sentence of known subject and main verb, cut where the subject does something else."""
    pieces, start, head = [], 0, ""
    for joint in JOINT.finditer(sentence, len(subject)):
        rest = drop_then(sentence[joint.end():].split())
        opening = next_action(rest, subject, verb, comma="," in joint[0] or ";" in joint[0])
        if opening is None or main_verb((head + sentence[start:joint.start()]).split()) is None:
            continue
        pieces.append(head + sentence[start:joint.start()])
        head, skipped = opening
        start = len(sentence) - len(" ".join(rest[skipped:]))
    return [piece.strip(" ,;") for piece in [*pieces, head + sentence[start:]]]


def next_action(words: list[str], subject: str, verb: str, comma: bool) -> tuple[str, int] | None:
    """If words begin another action of the subject: what to write before, how many to leave out."""
    # "slowly walks"
    first = next((i for i, word in enumerate(words) if not word.endswith("ly")), None)
    if first is None:
        return None
    word = words[first].lower().strip(",;")
    if word in ("he", "she"):
        more = agrees(word, subject) and len(words) > first + 1
        return (f"{subject} ", first + 1) if more else None
    plural = not (verb.endswith("s") or verb in BE or is_past(verb))         # "two men walk"
    if (is_present(words, first, loose=True) or past_action(words, first)
            or plural and word in VERBS and verb != "are"):
        return f"{subject} ", 0
    if verb in BE and not comma and base_of_ing(word) in VERBS:           # "is sitting and talking"
        return f"{subject} {verb} ", 0
    own = main_verb(words[:12])
    named = [w.lower() for w in words[:own]] if own else []
    noun = next((w for w in re.findall(r"\w+", subject.lower()) if w in PEOPLE), None)
    return ("", 0) if named and named in (subject.lower().split(), ["the", noun]) else None


def main_verb(words: list[str]) -> int | None:
    """Index of the first verb outside relative clauses.

    In the third person or the past with an object; else any in the past, else in base form.
    """
    tests = (lambda i: is_present(words, i)
             or past_action(words, i) and follows(words, i) in OBJECTS,
             lambda i: is_present(words, i, loose=True), lambda i: is_past(words[i]),
             lambda i: words[i].lower().strip(",;") in VERBS)
    for test in tests:
        relative = False
        for i, word in enumerate(words):
            relative |= word.lower() in ("who", "which", "that")
            if i and test(i) and words[i - 1].lower() not in NOT_AFTER:
                if not relative:
                    return i
                relative = False                             # "the man who sits" still has a verb
    return None


def follows(words: list[str], i: int) -> str:
    """The word after the i-th, "" at the end."""
    return words[i + 1].lower().strip(",;") if i + 1 < len(words) else ""


def is_present(words: list[str], i: int, loose: bool = False) -> bool:
    """A verb in the third person; loose: also unknown words in -s before an object, a particle."""
    word = words[i].lower().strip(",;")
    if word in BE or word in ("has", "does", "goes"):
        return True
    if not word.endswith("s") or word.endswith(("ss", "'s", "’s")):
        return False
    stems = {word[:-1], word[:-2] if word.endswith("es") else "",
             word[:-3] + "y" if word.endswith("ies") else ""}
    after = follows(words, i)
    if word in NOUNS:
        return bool(stems & VERBS) and after in OBJECTS      # "hands it to the woman"
    return (bool(stems & VERBS) or after in OBJECTS
            or loose and (after in PARTICLES or after.endswith("ly")))


def is_past(word: str) -> bool:
    word = word.lower().strip(",;")
    return word in IRREGULAR or word.endswith("ed") and len(word) > 4


def past_action(words: list[str], i: int) -> bool:
    """A verb in the past, and no participle such as "dressed in black" or "followed by the boy"."""
    return is_past(words[i]) and follows(words, i) not in ("in", "by", "as")


def base_of_ing(word: str) -> str:
    """talking -> talk, sitting -> sit, moving -> move, lying -> lie; "" if it is no such form."""
    if not word.endswith("ing"):
        return ""
    stem = word[:-3]
    once = stem[:-1] if stem[-1:] == stem[-2:-1] else ""
    lie = stem[:-1] + "ie" if stem.endswith("y") else ""
    return next((form for form in (stem, once, stem + "e", lie) if form in VERBS), "")


def agrees(pronoun: str, subject: str) -> bool:
    """Whether he or she can be the subject, by the first word for a person in it."""
    other = FEMALE if pronoun.lower() == "he" else MALE
    people = (word for word in re.findall(r"\w+", subject.lower()) if word in PEOPLE)
    return next(people, "") not in other


def drop_then(words: list[str]) -> list[str]:
    while words and words[0].lower().strip(",") in THEN:
        words = words[1:]
    return words
