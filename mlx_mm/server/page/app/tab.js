// What this tab keeps over a reload.

export const store = (name, text) => {
  try {
    sessionStorage.setItem(name, text);
  } catch {
    // it has no room for more, and goes on without
  }
};
