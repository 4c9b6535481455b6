//! JSON arrays as sets: elements in one canonical form each, so that every replica calls the same ones equal.

use crate::value::Value;
use std::fmt::Write;

/// Reads a JSON array into its elements, each in canonical form, in order, without repetition. `None` if it is none.
pub fn parse(value: &Value) -> Option<Vec<String>> {
    let array: Vec<serde_json::Value> = serde_json::from_str(value.as_str()?).ok()?;
    let mut out: Vec<String> = Vec::with_capacity(array.len());
    let mut seen = std::collections::HashSet::new();
    for element in array {
        let mut text = String::new();
        canonical(&element, &mut text);
        if seen.insert(text.clone()) {
            out.push(text);
        }
    }
    Some(out)
}

/// Writes elements as a JSON array.
pub fn print<'a>(elements: impl Iterator<Item = &'a str>) -> Value {
    let mut out = String::from("[");
    for (i, e) in elements.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(e);
    }
    out.push(']');
    Value::text(out)
}

/// Whether a text is one element in canonical form.
pub fn is_canonical(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|v| {
        let mut again = String::new();
        canonical(&v, &mut again);
        again == text
    })
}

/// Compact, the keys of objects sorted: whatever order a program wrote them in.
fn canonical(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        serde_json::Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", serde_json::Value::String(key.clone()));
                canonical(&map[key], out);
            }
            out.push('}');
        }
        leaf => {
            let _ = write!(out, "{leaf}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_one_form() {
        let v = Value::text(r#" [ "b", {"y": 1, "x": [true, null]}, "b", 1, 1.0 ] "#);
        let elements = parse(&v).unwrap();
        assert_eq!(elements, ["\"b\"", r#"{"x":[true,null],"y":1}"#, "1", "1.0"]);
        assert!(elements.iter().all(|e| is_canonical(e)) && !is_canonical(r#"{"y":1,"x":2}"#));
        assert_eq!(print(elements.iter().map(String::as_str)).as_str(), Some(r#"["b",{"x":[true,null],"y":1},1,1.0]"#));
        assert_eq!(parse(&Value::text("{}")), None);
        assert_eq!(parse(&Value::Int(1)), None);
    }
}
