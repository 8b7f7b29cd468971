//! Decoding of request bodies, with a record of keys that occur twice.

pub mod syntax;

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::{NESTING_MAX, depth};
use crate::schema::child;
use crate::status_error::StatusError;
use crate::store::Body;

/// Decodes JSON, or YAML if the content type says so.
pub fn decode(bytes: &[u8], content_type: &str) -> Result<Body, StatusError> {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let duplicates = RefCell::new(Vec::new());
    let reader = Reader { path: String::new(), depth: 0, duplicates: &duplicates };
    let yaml = media_type == "application/yaml" || media_type.ends_with("+yaml");
    let value = if yaml {
        yaml_to_json(bytes)?
    } else {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = reader.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        value.map_err(|error| StatusError::bad_request(format!("error decoding request body: {error}")))?
    };
    let duplicates = duplicates.into_inner();
    Ok(Body { value, duplicates })
}

fn yaml_to_json(bytes: &[u8]) -> Result<Value, StatusError> {
    let text = std::str::from_utf8(bytes).map_err(|_| StatusError::bad_request("the body is not UTF-8"))?;
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| StatusError::bad_request(format!("error converting YAML to JSON: {error}")))?;
    if depth(&value) > NESTING_MAX {
        return Err(StatusError::bad_request("the body nests too deeply"));
    }
    Ok(value)
}

struct Reader<'a> {
    path: String,
    depth: usize,
    duplicates: &'a RefCell<Vec<String>>,
}

impl Reader<'_> {
    fn inner<E: serde::de::Error>(&self, path: String) -> Result<Reader<'_>, E> {
        if self.depth >= NESTING_MAX {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Reader { path, depth: self.depth + 1, duplicates: self.duplicates })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            access.next_element_seed(self.inner(format!("{}[{}]", self.path, list.len()))?)?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = child(&self.path, &key);
            let value = access.next_value_seed(self.inner(path.clone())?)?;
            if map.insert(key, value).is_some() {
                self.duplicates.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(map))
    }
}
