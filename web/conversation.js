// The messages of the conversation, {role, content} each, which are stored for each model until "New conversation".
import { state } from "./page.js";
import { openStore } from "./store.js";

export const conversation = [];

/** Adds messages and stores the conversation. */
export function extend(...messages) {
  conversation.push(...messages);
  return keep();
}

/** Begins a new conversation; the stored one is deleted. */
export function forget() {
  conversation.length = 0;
  return keep();
}

/** Reads the stored conversation with the loaded model; resolves to whether there is one. */
export async function restore() {
  const { model } = state;
  await written;
  const { messages = [] } = await request("conversation");
  const valid = Array.isArray(messages) && messages.every(({ role, content }) => role && typeof content === "string");
  if (!valid || messages.length === 0 || conversation.length > 0 || state.model !== model || state.phase !== "ready") return false;
  conversation.push(...messages);
  return true;
}

// One after the other: of two writes of a file at once, the later one would fail.
let written = Promise.resolve();

/** Stores the conversation as it is now, with the present model. */
function keep() {
  const { source } = state;
  const messages = [...conversation];
  written = written.then(() => request("keepConversation", { messages }, source));
  return written;
}

/** The answer of the store, {} where nothing can be stored: a conversation then lasts as long as the page. */
async function request(type, fields = {}, source = state.source) {
  if (!state.stores || !source) return {};
  try {
    return await openStore().request(type, { name: source.name, ...fields });
  } catch {
    return {};
  }
}
