import { createHash, randomUUID } from "node:crypto";
import type { Request, Response, NextFunction } from "express";

export interface CartItem {
  readonly sku: string;
  quantity: number;
  unitPriceCents: number;
  discount?: { kind: "percent" | "fixed"; value: number };
}

export type CartEvent =
  | { type: "added"; item: CartItem; at: Date }
  | { type: "removed"; sku: string; at: Date }
  | { type: "checkedOut"; orderId: string; totalCents: number };

const MAX_ITEMS = 50;
const currency = new Intl.NumberFormat("en-GB", { style: "currency", currency: "EUR" });

export class Cart {
  #items = new Map<string, CartItem>();
  #listeners: Array<(event: CartEvent) => void> = [];

  constructor(private readonly customerId: string, private readonly taxRate = 0.19) {}

  subscribe(listener: (event: CartEvent) => void): () => void {
    this.#listeners.push(listener);
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== listener);
    };
  }

  add(item: CartItem): this {
    if (this.#items.size >= MAX_ITEMS && !this.#items.has(item.sku)) {
      throw new RangeError(`A cart holds at most ${MAX_ITEMS} different items`);
    }
    const existing = this.#items.get(item.sku);
    this.#items.set(item.sku, existing ? { ...existing, quantity: existing.quantity + item.quantity } : item);
    this.emit({ type: "added", item, at: new Date() });
    return this;
  }

  get totalCents(): number {
    let total = 0;
    for (const { quantity, unitPriceCents, discount } of this.#items.values()) {
      const gross = quantity * unitPriceCents;
      if (!discount) total += gross;
      else if (discount.kind === "percent") total += Math.round(gross * (1 - discount.value / 100));
      else total += Math.max(0, gross - discount.value);
    }
    return Math.round(total * (1 + this.taxRate));
  }

  etag(): string {
    const hash = createHash("sha256").update(this.customerId);
    [...this.#items.keys()].sort().forEach((sku) => hash.update(`${sku}:${this.#items.get(sku)!.quantity};`));
    return `"${hash.digest("base64url").slice(0, 22)}"`;
  }

  async checkout(pay: (cents: number) => Promise<boolean>): Promise<string> {
    const totalCents = this.totalCents;
    if (totalCents === 0 || !(await pay(totalCents))) throw new Error(`payment of ${currency.format(totalCents / 100)} failed`);
    const orderId = randomUUID();
    this.emit({ type: "checkedOut", orderId, totalCents });
    this.#items.clear();
    return orderId;
  }

  private emit(event: CartEvent): void {
    for (const listener of this.#listeners) queueMicrotask(() => listener(event));
  }
}

export const requireCart = (req: Request, res: Response, next: NextFunction) =>
  req.headers["x-cart-id"] ? next() : res.status(400).json({ error: "missing header x-cart-id" });
