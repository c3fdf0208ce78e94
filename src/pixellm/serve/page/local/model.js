// The model in this browser: files → image → questions, as `pixellm.runtime.predictor`.

import { AnswerBuilder } from "./answer.js";
import { decode, encodePrefix } from "./generation.js";
import { Graphs } from "./graphs.js";
import { letterbox } from "./letterbox.js";
import { binarize } from "./postprocess.js";
import { PromptEncoder } from "./prompts.js";

export class Model {
  // `read(name)` gives a file of the model as bytes.
  static async load(read, onStage) {
    const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
    const settings = await json("processor_config.json");
    const prompts = new PromptEncoder(await json("tokenizer.json"), settings);
    const graphs = await Graphs.load(await json("manifest.json"), read, onStage);
    return new Model(graphs, prompts, settings.image_processor);
  }

  constructor(graphs, prompts, imageSettings) {
    Object.assign(this, { graphs, prompts, imageSettings });
  }

  // Encode an image, RGBA bytes {data, width, height}, that the next questions are about.
  async setImage(image) {
    const square = letterbox(image, this.imageSettings);
    this.image = { hw: [image.height, image.width], resized: square.hw };
    this.prefix = await encodePrefix(this.graphs, square, this.prompts.prefixIds());
  }

  // Answer a question with `history`, see `PromptEncoder`: yields {content, targets, ids, finish_reason}.
  async *ask(question, history) {
    const prompt = this.prompts.promptIds(question, history);
    const { max_positions: most } = this.graphs.manifest;
    const length = this.prefix.valid.length + prompt.length;
    if (length > most) throw new Error(`Expected at most ${most} tokens of image, earlier turns and question, got ${length}. Shorten the question.`);
    const answer = new AnswerBuilder((ids) => this.prompts.decode(ids));
    for await (const { ids, states, reason } of decode(this.graphs, this.prefix, prompt, this.prompts.endId())) {
      const content = states ? answer.addIds([], true) : answer.addIds(ids, Boolean(reason));
      yield { content, targets: states ? [await this.target(answer, states)] : [], ids, finish_reason: reason };
    }
  }

  async target(answer, states) {
    const { logits, side, presence } = await this.graphs.masks(states, this.prefix.image);
    const mask = binarize(logits, side, this.image.resized, this.image.hw, this.graphs.manifest.peak_share);
    return { ...answer.addMask(), ...mask, presence };
  }
}
