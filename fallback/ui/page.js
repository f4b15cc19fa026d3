// What the pages do beyond Streamlit. Streamlit runs this whenever it draws the frame anew: only the first time counts.
if (!window.fallbackPage) {
  window.fallbackPage = true;
  const chat = "[data-testid=stChatMessage]";
  const request = ".st-key-analytics_request";
  const LOOK_MS = 50;
  const LEAVING_MS = 300;
  let messages = 0, following = false, leftAt = 0, opened = "", height = 0;

  // Streamlit closes the side menu behind a link on what calls itself a phone, and not on other narrow screens.
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-testid=stSidebarNavLink]")) return;
    setTimeout(() => {
      const menu = document.querySelector("[data-testid=stSidebar][data-collapsed=false]");
      menu?.querySelector("[data-testid=stSidebarCollapseButton] button")?.click();
    });
  });

  // The chat stays at its end until its reader leaves that, and from the next question on, or at the end, once more.
  const atEnd = (page) => page.scrollHeight - page.clientHeight - page.scrollTop < 2;
  const leave = () => { following = false; leftAt = Date.now(); };
  document.addEventListener("wheel", (event) => { if (event.deltaY < 0) leave(); }, { passive: true });
  document.addEventListener("pointerdown", (event) => {
    if (event.target.closest("#stMain") && !event.target.closest("[data-testid=stBottom]")) leave();
  });
  document.addEventListener("keydown", (event) => {
    if (["PageUp", "Home", "ArrowUp"].includes(event.key) && !event.target.closest("textarea, input")) leave();
  });
  document.addEventListener("scroll", (event) => {
    if (event.target.id === "stMain" && Date.now() - leftAt > LEAVING_MS && atEnd(event.target)) following = true;
  }, { capture: true, passive: true });

  setInterval(() => {
    const page = document.getElementById("stMain");
    if (!page) return;
    const before = messages;
    messages = page.querySelectorAll(chat).length;
    if (messages > before) following = true;
    if (!messages && before) page.scrollTop = 0;
    if (messages && following && !atEnd(page)) page.scrollTop = page.scrollHeight;

    // A request opened in the table of Analytics stands below it. Once it has its height, it is brought to the top.
    const found = page.querySelector(request);
    const name = found?.querySelector("h5")?.textContent;
    if (name && name !== opened && found.offsetHeight === height) {
      found.scrollIntoView({ behavior: "smooth" });
      opened = name;
    }
    height = found?.offsetHeight ?? 0;
    if (!location.search.includes("request=")) opened = "";
  }, LOOK_MS);
}
