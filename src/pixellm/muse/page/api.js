// Requests to the review's server.

// Return the server's answer as an object, or `missing` for a 404. Errors carry the server's own words.
export async function api(method, address, { body, missing } = {}) {
  let response;
  try {
    const headers = body ? { "Content-Type": "application/json" } : {};
    response = await fetch(`/api/${address}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The review does not answer. Is `pixellm muse review` still running? Nothing was saved just now.");
  }
  if (response.ok) return response.json();
  if (response.status === 404 && missing !== undefined) return missing;
  throw new Error(await reason(response));
}

export async function reason(response) {
  const text = await response.text();
  try {
    const { detail } = JSON.parse(text);
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return `${response.status}: ${text}`;
  }
}
