// Files of the model, read from the server that gave the page, with progress.

const MB = 1e6;

// A function that reads a file as bytes. `sizes`: of all files in bytes by name; `onProgress` gets a text.
export function reader(sizes, onProgress) {
  const total = Object.values(sizes).reduce((sum, size) => sum + size, 0);
  let got = 0;
  return async (name) => {
    const response = await fetch(`../model/${name}`).catch(() => null);
    if (!response) throw new Error("The server does not answer. Is it still running?");
    if (!response.ok) throw new Error(`Expected the model's file ${name}, got status ${response.status}. Start \`pixellm web --local\` again.`);
    const bytes = new Uint8Array(sizes[name]);
    let at = 0;
    for await (const chunk of chunks(response.body)) {
      if (at + chunk.length > bytes.length) throw changed(name);
      bytes.set(chunk, at);
      at += chunk.length;
      got += chunk.length;
      onProgress(`Loading the model: ${Math.round(got / MB)} of ${Math.round(total / MB)} MB`);
    }
    if (at < bytes.length) throw changed(name);
    return bytes;
  };
}

const changed = (name) => new Error(`Expected the whole of the model's file ${name}, got another length. Reload the page.`);

async function* chunks(stream) {
  const source = stream.getReader();
  for (;;) {
    const { value, done } = await source.read().catch(() => {
      throw new Error("The connection broke while the model was loading. Reload the page.");
    });
    if (done) return;
    yield value;
  }
}
