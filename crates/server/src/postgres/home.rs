//! Keeps rows of a table with a scope column (`scope = { column = … }`) where that column says, whoever writes them: on the
//! devices that column is where a row is.

use crate::postgres::ddl::dollar_quoted;
use crate::postgres::diagnose::{real, type_of};
use crate::postgres::registry::{Table, literal};
use crate::postgres::types::PgType;
use syncline_core::schema::{ScopeRule, quote};

/// Returns the statements that make, or make anew, the trigger of a table: an INSERT without `scope_id` gets the scope that the
/// column names, or the only account's; what then says two things, or is shared without a name, is refused.
pub fn keep(t: &Table) -> Vec<String> {
    let (None, ScopeRule::Column(column)) = (&t.adopted, &t.def.options.scope) else { return vec![] };
    let (function, place) = (format!("syncline.home_{}", t.n), &t.place);
    let named = quote(&real(t, column));
    let said = said(type_of(t, column), &format!("NEW.{named}"));
    let complain = |why: &str| literal(&format!("forbidden: column {column} of table {} {why}", t.def.name)).replace('%', "%%");
    let body = format!(
        "
DECLARE
  said text COLLATE \"C\" := {said};
BEGIN
  IF TG_OP = 'INSERT' AND NEW.scope_id = '' THEN
    NEW.scope_id := coalesce(said, syncline.only_scope());
  END IF;
  IF said <> NEW.scope_id THEN
    RAISE EXCEPTION {};
  ELSIF said IS NULL AND NOT EXISTS (SELECT FROM syncline.account a WHERE a.id = NEW.scope_id) THEN
    RAISE EXCEPTION {};
  END IF;
  RETURN NEW;
END ",
        complain("names another scope than the row is in"),
        complain("names no scope, and the row is in one that is shared"),
    );
    vec![
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS {}",
            dollar_quoted(&body)
        ),
        format!(
            "CREATE OR REPLACE TRIGGER _syncline_home BEFORE INSERT OR UPDATE OF scope_id, {named} ON {place} FOR EACH ROW
             WHEN (current_setting('syncline.applying', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION {function}()"
        ),
        format!("ALTER TABLE {place} ALTER scope_id SET DEFAULT ''"),
    ]
}

/// What a column says of a row's scope; NULL where it says nothing, as devices have it.
fn said(of: PgType, column: &str) -> String {
    match of {
        PgType::Text | PgType::Any(_) => format!("nullif({column}, '')"),
        PgType::Json => format!("nullif({column}::text, '')"),
        PgType::BigInt => format!("{column}::text"),
        PgType::Boolean => format!("{column}::int::text"),
        PgType::Numeric => format!("CASE WHEN {column} = trunc({column}) THEN trunc({column})::text END"),
        PgType::Double | PgType::Bytea | PgType::Own(..) => "NULL".into(),
    }
}
