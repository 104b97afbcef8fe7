// What a board may be, by Grafana's own types (@grafana/schema). Strings stand for the enums that they are values of.
import type { Dashboard as Whole, DataSourceRef, FieldConfig, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type * as stat from "./node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen.d.ts";
import type * as table from "./node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen.d.ts";
import type * as timeseries from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen.d.ts";

type Plain<T> = T extends string ? (string extends T ? T : `${T}`)
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

// Of Prometheus' queries the package has no types.
interface Query {
  refId: string;
  expr: string;
  datasource: DataSourceRef;
  legendFormat: string;
  instant?: boolean;
  range?: boolean;
  format?: "time_series" | "table" | "heatmap";
}

type Of<Type extends string, Options, Custom> = Plain<Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> & {
  type: Type;
  options: Partial<Options>;
  targets: Query[];
  fieldConfig: { defaults: Omit<FieldConfig, "custom"> & { custom?: Partial<Custom> }; overrides: [] };
}>;

// Grafana writes the field "definition" of variables itself, and its types leave it out.
export type Board = Plain<Omit<Whole, "panels" | "templating"> & { templating: { list: (VariableModel & { definition?: string })[] } }>;
export type PanelOf = {
  row: Plain<RowPanel>;
  stat: Of<"stat", stat.Options, {}>;
  table: Of<"table", table.Options, table.FieldConfig>;
  timeseries: Of<"timeseries", timeseries.Options, timeseries.FieldConfig>;
};
