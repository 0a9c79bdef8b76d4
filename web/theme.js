// Before the first paint, so that the page never flashes in the other colours.
const stored = (() => {
  try {
    return localStorage.getItem("sparsefire-theme");
  } catch {
    return null; // storage is forbidden
  }
})();
if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
