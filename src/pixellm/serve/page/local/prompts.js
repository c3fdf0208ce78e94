// Prompts: templates and texts → token ids, and ids → text, as `pixellm.prompts` does it.
// What a user wrote is tokenised without control tokens, so that `<image>` or `[SEG0]` in a question stays plain text.

import { Tokenizer } from "../npm/tokenizers.min.mjs";

export const IMAGE_TOKEN_ID = -200; // stands for one image token; vocabularies have no negative ids
const IMAGE = "<image>";
const FIELD = /\{(system|question|answer)\}/;
const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");

export class PromptEncoder {
  // `file`: tokenizer.json, `template`: processor_config.json, both read.
  constructor(file, template) {
    const added = new Map(file.added_tokens.map(({ content, id }) => [content, id]));
    // Without added tokens, texts have no control tokens.
    this.tokenizer = new Tokenizer({ ...file, added_tokens: [] }, { clean_up_tokenization_spaces: false });
    this.template = template;
    this.control = new Map([...template.control_tokens, ...template.codebook_tokens].map((token) => [token, added.get(token)]));
    const unknown = [...this.control].filter(([, id]) => id === undefined).map(([token]) => token);
    if (unknown.length) throw new Error(`Expected control tokens that the tokenizer has, got ${unknown.join(" ")}.`);
    this.dropped = new Set(added.values()); // of decoded texts
    this.pattern = new RegExp([IMAGE, ...this.control.keys()].map(escaped).join("|"), "g");
    this.codebookIds = template.codebook_tokens.map((token) => this.control.get(token));
  }

  // System text and image, shared by all questions.
  prefixIds() {
    const { prefix, system, num_image_tokens: count } = this.template;
    return this.encode(prefix, { system: [system] }).flatMap((id) => (id === IMAGE_TOKEN_ID ? Array(count).fill(id) : [id]));
  }

  // The last control token of an answer ends it.
  endId() {
    return this.encode(this.template.answer, { answer: [""] }).at(-1);
  }

  // A question with the turns {question, text, spans} before it; spans are [start, end] in code points.
  promptIds(question, history) {
    const turns = history.map((turn) => [...this.encode(this.template.prompt, { question: [turn.question] }), ...this.answeredIds(turn)]);
    return [...turns.flat(), ...this.encode(this.template.prompt, { question: [question] })];
  }

  answeredIds({ text, spans }) {
    const letters = Array.from(text);
    const cuts = [...spans.map(([, end]) => end).sort((a, b) => a - b), letters.length];
    const pieces = cuts.map((end, i) => letters.slice(i ? cuts[i - 1] : 0, end).join(""));
    return this.encode(this.template.answer, { answer: pieces });
  }

  // Control tokens of the template by id, and the pieces of its fields; between two pieces stands a codebook group.
  encode(template, fields) {
    const runs = [""]; // texts, and ids between them
    const control = (ids) => runs.push(...ids, "");
    const literal = (text) => {
      let at = 0;
      for (const { 0: token, index } of text.matchAll(this.pattern)) {
        runs[runs.length - 1] += text.slice(at, index);
        control([token === IMAGE ? IMAGE_TOKEN_ID : this.control.get(token)]);
        at = index + token.length;
      }
      runs[runs.length - 1] += text.slice(at);
    };
    template.split(FIELD).forEach((part, i) => {
      if (i % 2 === 0) return literal(part);
      fields[part].forEach((piece, slot) => {
        if (slot) {
          runs[runs.length - 1] = runs.at(-1).trimEnd(); // the token before a group is the phrase's last word
          control(this.codebookIds);
        }
        runs[runs.length - 1] += piece;
      });
    });
    return runs.flatMap((run, i) => (typeof run === "number" ? [run] : this.runIds(run, i < runs.length - 1)));
  }

  runIds(text, before) {
    if (this.template.strip_text) text = before ? text.trim() : text.trimStart();
    return text ? this.tokenizer.encode(text, { add_special_tokens: false }).ids : [];
  }

  // The text of ids; control tokens are dropped.
  decode(ids) {
    const plain = ids.filter((id) => !this.dropped.has(id));
    return plain.length ? this.tokenizer.decode(plain) : "";
  }
}
