// Runs before the first paint, so that a chosen theme does not flash the other one.
// Without a choice the page follows the system (playground.css).
(() => {
  try {
    const theme = localStorage.getItem("playground.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is blocked: the system's theme it is.
  }
})();
