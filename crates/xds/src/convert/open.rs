//! Taking a message apart so that no field is lost in silence.
//!
//! [`open!`] destructures a message without `..`: fields that are understood become variables, every other
//! one must have its default value or the message is refused by that field's path. A field that a newer
//! `envoy-types` adds does not compile until somebody decides which of the two it is. Fields that the message
//! type itself doesn't know are found by [`decode`], as prost drops them.

use std::fmt::Display;

use prost::{Message, Name};

use crate::wire::Any;

/// Why a resource was not taken: which field, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", prefix(.path))]
pub struct Refused {
    /// `virtual_hosts[0].routes[2].match.grpc`; empty: the resource as a whole.
    pub path: String,
    pub reason: String,
}

/// A path, and a reason: several times the longest of ours. Both may quote what came from the other end, whatever that is,
/// and go back to it, into logs and into lists.
const TOLD_BYTES_MAX: usize = 1_000;

/// As much of it as is told.
fn told(text: String) -> String {
    match text.floor_char_boundary(TOLD_BYTES_MAX) {
        end if end < text.len() => format!("{}…", &text[..end]),
        _ => text,
    }
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl Refused {
    pub(crate) fn at(field: impl Display, reason: impl Into<String>) -> Self {
        Self { path: told(field.to_string()), reason: told(reason.into()) }
    }

    /// The fault lies in the message itself; who holds it adds the path.
    pub(super) fn here(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: told(reason.into()) }
    }
}

/// Adds the field in which a message lies to the path of what was refused inside.
pub(super) trait Under {
    fn under(self, field: impl Display) -> Self;
}

impl<T> Under for Result<T, Refused> {
    fn under(self, field: impl Display) -> Self {
        self.map_err(|refused| match refused.path.as_str() {
            "" => Refused { path: told(field.to_string()), ..refused },
            path => Refused { path: told(format!("{field}.{path}")), ..refused },
        })
    }
}

/// `open!(message, Type { understood, … } refuse { every, other, field })`: binds the former, refuses the
/// message if one of the latter is set. Both lists together are all fields, which the compiler checks.
macro_rules! open {
    ($message:expr, $Type:path { $($used:ident),* $(,)? } refuse { $($other:ident),* $(,)? }) => {
        let $Type { $($used,)* $($other,)* } = $message;
        $( $crate::convert::open::unset(stringify!($other), &$other)?; )*
    };
}
pub(super) use open;

/// A field that must have its default value.
pub(crate) fn unset<T: Default + PartialEq>(field: &str, value: &T) -> Result<(), Refused> {
    if *value == T::default() {
        return Ok(());
    }
    let field = field.strip_prefix("r#").unwrap_or(field);
    Err(Refused::at(field, "is set, and this version of meshwork can't honour it"))
}

/// A field that must be set.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T, Refused> {
    value.ok_or_else(|| Refused::at(field, "is missing"))
}

/// A list of exactly one.
pub(super) fn only<T>(field: &str, values: Vec<T>) -> Result<T, Refused> {
    let count = values.len();
    let one: Result<[T; 1], _> = values.try_into();
    one.map(|[value]| value).map_err(|_| Refused::at(field, format!("holds {count} entries, must hold one")))
}

/// A field that may only say what we say.
pub(super) fn expect<T: PartialEq + std::fmt::Debug>(
    field: &str,
    value: &T,
    want: &T,
) -> Result<(), Refused> {
    if value == want {
        return Ok(());
    }
    Err(Refused::at(field, format!("is {value:?}, and this version of meshwork can honour {want:?} only")))
}

/// Decodes a message, and refuses one that holds fields unknown to its type.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Refused> {
    let message = M::decode(bytes).map_err(|error| Refused::here(format!("can't be decoded: {error}")))?;
    // prost keeps no unknown fields, so a message that had some is shorter when it is written again.
    if message.encoded_len() < bytes.len() {
        return Err(Refused::here("holds a field that this version of meshwork does not know"));
    }
    Ok(message)
}

pub(super) fn unpack<M: Name + Default>(any: Any) -> Result<M, Refused> {
    open!(any, Any { type_url, value } refuse {});
    if type_url != M::type_url() {
        return Err(Refused::at("type_url", format!("is {type_url:?}, must be {:?}", M::type_url())));
    }
    decode(&value)
}

pub(crate) fn pack(message: &impl Name) -> Any {
    Any { type_url: type_url_of(message), value: message.encode_to_vec() }
}

fn type_url_of<M: Name>(_: &M) -> String {
    M::type_url()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_short_whatever_it_quotes() {
        let quoted = format!("is {:?}", "\u{1f980}\u{7f}".repeat(1_000));
        let mut refused = Err::<(), _>(Refused::here(quoted));
        for number in 0..500 {
            refused = refused.under(format_args!("ümläut[{number}]"));
        }
        let told = refused.unwrap_err().to_string();
        assert!(told.len() < 2 * TOLD_BYTES_MAX + 20, "{} bytes", told.len());
        assert!(
            told.starts_with("ümläut[499].ümläut[498].") && told.contains("…: is \"\u{1f980}\\u{7f}"),
            "{told}"
        );
    }
}
