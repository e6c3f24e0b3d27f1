// What is asked of an open page, in the page's own language.
({
  // Text outside the screen: its box leaves the page sideways, although nothing around it scrolls.
  outside() {
    const scrolls = (e) => e && (/(auto|scroll)/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const found = [];
    const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      if (!walk.currentNode.data.trim() || scrolls(walk.currentNode.parentElement)) continue;
      const range = document.createRange();
      range.selectNodeContents(walk.currentNode);
      for (const box of range.getClientRects())
        if (box.width && (box.left < -0.5 || box.right > innerWidth + 0.5)) found.push(walk.currentNode.data);
    }
    return found;
  },

  // Every visible text with its colour, the colour behind it and its size on the screen. Behind it is
  // what is painted under its middle: boxes of HTML and filled shapes of SVG, or a text's own halo.
  texts() {
    const parse = (text) => {
      const parts = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
      return [...parts.slice(0, 3), parts.length > 3 ? parts[3] : 1];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const dimmed = (e) => e ? Number(getComputedStyle(e).opacity) * dimmed(e.parentElement) : 1;
    const layer = (e) => {
      const style = getComputedStyle(e), isShape = e instanceof SVGGeometryElement;
      if (e instanceof SVGElement && !isShape) return null;
      if (isShape && style.fill === 'none') return null;
      const colour = parse(isShape ? style.fill : style.backgroundColor);
      colour[3] *= (isShape ? Number(style.fillOpacity) : 1) * dimmed(e);
      return colour[3] ? colour : null;
    };
    const behind = (e, x, y) => {
      const style = getComputedStyle(e);
      if (e instanceof SVGTextElement && style.paintOrder.startsWith('stroke') && style.stroke !== 'none')
        return parse(style.stroke).slice(0, 3);
      const stack = document.elementsFromPoint(x, y), at = stack.indexOf(e);
      const below = e instanceof SVGElement ? stack.slice(at + 1) : at < 0 ? [e, ...stack] : stack.slice(at);
      const layers = below.map(layer).filter(Boolean);
      return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const node = walk.currentNode, e = node.parentElement;
      if (!node.data.trim() || !e.checkVisibility() || e.closest('script, style, title, .skip')) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      let box = range.getClientRects()[0];
      if (box && (box.left < 0 || box.right > innerWidth || box.top < 0 || box.bottom > innerHeight)) {
        e.scrollIntoView({ block: 'center', inline: 'center' });
        box = range.getClientRects()[0];
      }
      if (!box || !box.width) continue;
      const style = getComputedStyle(e), isSvg = e instanceof SVGElement;
      const back = behind(e, box.left + box.width / 2, box.top + box.height / 2);
      const colour = parse(isSvg ? style.fill : style.color);
      colour[3] *= dimmed(e);
      const scale = isSvg ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : 1;
      found.push({ text: node.data.trim(), ink: over(colour, back), paper: back, size: parseFloat(style.fontSize) * scale });
    }
    return found;
  },

  // How many parts take the focus by Tab; each is numbered. Radio buttons of one name are one stop.
  stops() {
    const stops = [...document.querySelectorAll('a[href], button, input, summary, .scroll, pre, [tabindex="0"]')]
      .filter((e) => e.checkVisibility() && (e.type !== 'radio' || e.checked));
    stops.forEach((e, i) => { e.dataset.stop = i; });
    return stops.length;
  },

  // The part that has the focus: its number, how it shows that, and whether it can be seen.
  focused() {
    const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
    const x = Math.min(Math.max(box.left, 0) + 6, (box.left + box.right) / 2), y = (box.top + Math.min(box.bottom, box.top + 12)) / 2;
    const top = document.elementFromPoint(x, y);
    return {
      stop: Number(e.dataset.stop ?? -1), name: e.outerHTML.slice(0, 80),
      outline: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
      colour: (style.outlineColor.match(/[\d.]+/g) || []).slice(0, 3).map(Number),
      on_screen: box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
      on_top: !!top && (e.contains(top) || top.contains(e) && !top.closest('.legend') || top.id === 'tip'),
    };
  },
})
