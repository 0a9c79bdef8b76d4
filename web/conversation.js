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
  const { messages = [] } = await request("conversation");
  const valid = Array.isArray(messages) && messages.every(({ role, content }) => role && typeof content === "string");
  if (!valid || messages.length === 0 || conversation.length > 0 || state.model !== model || state.phase !== "ready") return false;
  conversation.push(...messages);
  return true;
}

const keep = () => request("keepConversation", { messages: conversation });

/** The answer of the store, {} where nothing can be stored: a conversation then lasts as long as the page. */
async function request(type, fields = {}) {
  if (!state.stores || !state.source) return {};
  try {
    return await openStore().request(type, { name: state.source.name, ...fields });
  } catch {
    return {};
  }
}
