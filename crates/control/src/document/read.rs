//! Tree -> typed values: `T::deserialize(&node)`. What serde finds wrong gets the place of the value, or of the key for a field
//! that is not known.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::node::Entry;
use super::{Flaw, Node, Value};

impl de::Error for Flaw {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {found}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown value {variant:?}; it may be {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        if expected.is_empty() {
            return Self::new(format!("unknown field `{field}`; there are no fields here"));
        }
        Self::new(format!("unknown field `{field}`; known here: {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("field `{field}` is missing"))
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Flaw;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        }
        .map_err(|flaw| flaw.or_at(self.place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|flaw| flaw.or_at(self.place))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        let quote = |found: String| {
            let message = format!("expected a text, found {found}; write it in quotes: \"{found}\"");
            Err(Flaw::at(message, self.place))
        };
        match &self.value {
            Value::Bool(value) => quote(value.to_string()),
            Value::Unsigned(value) => quote(value.to_string()),
            Value::Signed(value) => quote(value.to_string()),
            Value::Float(value) => quote(value.to_string()),
            Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        self.deserialize_str(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        visitor.visit_newtype_struct(self).map_err(|flaw| flaw.or_at(self.place))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        match &self.value {
            Value::Text(variant) => visitor.visit_enum(BorrowedStrDeserializer::new(variant)),
            Value::Map(entries) => match &entries[..] {
                [entry] => visitor.visit_enum(Variant(entry)),
                _ => Err(Flaw::new("expected exactly one field here")),
            },
            Value::Null
            | Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Float(_)
            | Value::List(_) => Err(Flaw::new("expected a text or one field")),
        }
        .map_err(|flaw| flaw.or_at(self.place))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Flaw;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Flaw> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    /// Of the key that was read last.
    value: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Flaw;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Flaw> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key = BorrowedStrDeserializer::<Flaw>::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|flaw| flaw.or_at(entry.place))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Flaw> {
        let entry = self.value.take().ok_or_else(|| Flaw::new("a value was asked for before its key"))?;
        seed.deserialize(&entry.value).map_err(|mut flaw| {
            // An empty value stands nowhere: its key says more.
            if flaw.place == Some(entry.value.place) && entry.value.value == Value::Null {
                flaw.place = Some(entry.place);
            }
            flaw
        })
    }
}

/// An enum's variant with content: a map of one field.
struct Variant<'de>(&'de Entry);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Flaw;
    type Variant = Content<'de>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Content<'de>), Flaw> {
        let name = BorrowedStrDeserializer::<Flaw>::new(&self.0.key);
        let variant = seed.deserialize(name).map_err(|flaw| flaw.or_at(self.0.place))?;
        Ok((variant, Content(&self.0.value)))
    }
}

struct Content<'de>(&'de Node);

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Flaw;

    fn unit_variant(self) -> Result<(), Flaw> {
        match self.0.value {
            Value::Null => Ok(()),
            _ => Err(Flaw::at("expected nothing here", self.0.place)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Flaw> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Flaw> {
        self.0.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Flaw> {
        self.0.deserialize_any(visitor)
    }
}
