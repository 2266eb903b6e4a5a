// What all pages know, and who wants to be told when it changes.
import { useEffect, useReducer } from "./vendor/hooks.mjs";

export const state = {
  phase: "opening", // then open, or locked without a session
  why: "", // it is locked
  readOnly: true,
  version: "",
  status: null, // as the call status
  connected: true, // to penstock
  offers: {}, // by call: true if this penstock offers it
  known: false, // whether that is known
  notes: [], // short messages that go by themselves
  dialog: null, // the function that renders it
};

const listeners = new Set();

export function set(patch) {
  Object.assign(state, patch);
  for (const f of [...listeners]) f();
}

// useStore renders again when the state changes.
export function useStore() {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    listeners.add(again);
    return () => listeners.delete(again);
  }, []);
  return state;
}

const followers = new Set();

// follow calls back with each batch of records as they end, until the function that it returns is called.
export function follow(f) {
  followers.add(f);
  return () => followers.delete(f);
}

// lately are the last records that came. Where no history is kept, nobody else has them.
export const lately = [];

export function tell(records) {
  lately.push(...records);
  if (lately.length > 10000) lately.splice(0, lately.length - 5000);
  for (const f of [...followers]) f(records);
}

let notes = 0;

// note shows a message for a while. Bad news stays longer.
export function note(text, bad = false) {
  const one = { id: ++notes, text, bad };
  set({ notes: [...state.notes.slice(-3), one] });
  setTimeout(() => dismiss(one.id), bad ? 15000 : 6000);
}

export const dismiss = (id) => set({ notes: state.notes.filter((n) => n.id !== id) });

export const open = (dialog) => set({ dialog });
