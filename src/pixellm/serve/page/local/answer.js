// Pieces of text and masks → what the page shows: each mask with its phrase (`pixellm.inference.answer_builder`).

const CLAUSE_START = /[.!?;:\n]\s+|\n/g;
const OPENING =
  /(?:(?:[\s,;:]|and\b|or\b|then\b|sure\b,?|yes\b,?|here (?:is|are)\b|there (?:is|are)\b|it is\b|they are\b|(?:the )?segmentation result of\b)\s*)+/iy;
const VERB =
  /(?<!who )(?<!that )(?<!which )\b(?:could|would|can|should|might|may|must|will|is|are|has|have|see|shows?|contains?)\b/gi;
const NOUN_PHRASE =
  /\b(?:the|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|both|each|every|some|\d+)\b/i;
const CLOSING = /[\s,:;]+$|\s+(?:is|are)\s*$/g;
const GLUED = /^[.,;:!?)\]'’]/;

// The span [start, end] of the phrase that ends `text`, not before `start`; empty if there is none.
export function phraseSpan(text, start) {
  CLAUSE_START.lastIndex = start;
  for (let match; (match = CLAUSE_START.exec(text)); ) if (CLAUSE_START.lastIndex < text.length) start = CLAUSE_START.lastIndex;
  OPENING.lastIndex = start;
  if (OPENING.test(text)) start = OPENING.lastIndex;
  let end = text.length;
  for (;;) {
    CLOSING.lastIndex = start;
    const closing = CLOSING.exec(text.slice(0, end));
    if (!closing) break;
    end = closing.index;
  }
  const verb = Array.from(text.slice(0, end).matchAll(VERB)).findLast(({ index }) => index >= start);
  const said = verb ? verb.index + verb[0].length : end;
  const noun = NOUN_PHRASE.exec(text.slice(said, end));
  if (noun) start = said + noun.index;
  return end > start ? [start, end] : [text.length, text.length];
}

export class AnswerBuilder {
  // `decode` gives the text of ids.
  constructor(decode) {
    Object.assign(this, { decode, text: "", last: 0, masks: 0, space: "", run: [], decoded: "" });
  }

  // Add ids; returns the text that they add. Ids of a split character wait for the rest of it, unless they are the `final` ones.
  addIds(ids, final) {
    this.run.push(...ids);
    const decoded = this.decode(this.run);
    if (decoded.endsWith("\uFFFD") && !final) return "";
    const piece = decoded.slice(this.decoded.length);
    this.decoded = decoded;
    return this.addText(piece);
  }

  // White space at the end waits for what follows; after a mask, a missing space is added.
  addText(piece) {
    if (this.masks && this.text.length === this.last) {
      const after = piece.trimStart();
      piece = !after || GLUED.test(after) || !this.text ? after : ` ${after}`;
    }
    piece = this.space + piece;
    const kept = piece.trimEnd();
    this.space = piece.slice(kept.length);
    this.text += kept;
    return kept;
  }

  // Add a mask for the phrase that the text ends with; returns {phrase, span}, the span in code points.
  addMask() {
    const span = phraseSpan(this.text, this.last);
    Object.assign(this, { last: this.text.length, masks: this.masks + 1, space: "", run: [], decoded: "" });
    return { phrase: this.text.slice(...span), span: span.map((edge) => Array.from(this.text.slice(0, edge)).length) };
  }
}
