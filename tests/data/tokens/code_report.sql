-- Revenue per region and month, with the running total and the share of the year.
CREATE TABLE IF NOT EXISTS sales (
    sale_id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id  INTEGER      NOT NULL REFERENCES customers (customer_id) ON DELETE CASCADE,
    region       VARCHAR(32)  NOT NULL CHECK (region IN ('north', 'south', 'east', 'west')),
    amount_cents INTEGER      NOT NULL CHECK (amount_cents >= 0),
    sold_at      TIMESTAMPTZ  NOT NULL DEFAULT now()
);
CREATE INDEX CONCURRENTLY idx_sales_region_sold_at ON sales (region, sold_at DESC) INCLUDE (amount_cents);

WITH monthly AS (
    SELECT s.region,
           date_trunc('month', s.sold_at)::date AS month,
           sum(s.amount_cents) / 100.0          AS revenue,
           count(DISTINCT s.customer_id)        AS buyers
    FROM   sales AS s
    JOIN   customers AS c USING (customer_id)
    WHERE  s.sold_at >= DATE '2025-01-01'
      AND  s.sold_at <  DATE '2026-01-01'
      AND  c.deleted_at IS NULL
    GROUP  BY s.region, date_trunc('month', s.sold_at)
    HAVING sum(s.amount_cents) > 0
), ranked AS (
    SELECT m.*,
           sum(m.revenue) OVER (PARTITION BY m.region ORDER BY m.month ROWS UNBOUNDED PRECEDING) AS running_total,
           round(100 * m.revenue / sum(m.revenue) OVER (PARTITION BY m.region), 2)               AS share_percent,
           lag(m.revenue) OVER (PARTITION BY m.region ORDER BY m.month)                          AS previous_month,
           rank() OVER (PARTITION BY m.month ORDER BY m.revenue DESC)                            AS place
    FROM   monthly AS m
)
SELECT region,
       to_char(month, 'YYYY-MM')                                     AS month,
       revenue::numeric(12, 2),
       running_total::numeric(14, 2),
       share_percent,
       CASE WHEN previous_month IS NULL THEN NULL
            WHEN previous_month = 0     THEN 'new'
            ELSE to_char(100 * (revenue - previous_month) / previous_month, 'SG990D0') || ' %'
       END                                                           AS growth,
       buyers
FROM   ranked
WHERE  place <= 3
ORDER  BY region, month;

UPDATE customers SET segment = 'gold' WHERE customer_id IN (
    SELECT customer_id FROM sales GROUP BY customer_id HAVING sum(amount_cents) > 500000
);
