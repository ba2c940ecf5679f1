//! How large an item is, by the rules of
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>.

use serde_json::{Map, Value};

/// The bytes of an item: names and values of its attributes.
pub(crate) fn size(item: &Value) -> usize {
    item.as_object().map_or(0, attributes)
}

fn attributes(map: &Map<String, Value>) -> usize {
    map.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

/// The bytes of one typed value, `{"S": "text"}`.
pub(crate) fn value_size(value: &Value) -> usize {
    let Some((kind, value)) = value.as_object().and_then(|typed| typed.iter().next()) else { return 0 };
    let text = || value.as_str().unwrap_or_default();
    let all = |size: fn(&str) -> usize| -> usize {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(size).sum()
    };
    match kind.as_str() {
        "S" => text().len(),
        "N" => number(text()),
        "B" => binary(text()),
        "SS" => all(str::len),
        "NS" => all(number),
        "BS" => all(binary),
        // A document weighs three bytes itself and one more for each element.
        "M" => 3 + value.as_object().map_or(0, |map| attributes(map) + map.len()),
        "L" => 3 + value.as_array().into_iter().flatten().map(|element| value_size(element) + 1).sum::<usize>(),
        _ => 1,
    }
}

/// One byte for two significant digits, one for the exponent, one for a sign.
fn number(text: &str) -> usize {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_matches('0').len();
    significant.div_ceil(2) + 1 + usize::from(text.starts_with('-'))
}

/// What base64 text stands for.
fn binary(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_values_both_count() {
        assert_eq!(size(&json!({"PK": {"S": "J#1"}})), 2 + 3);
        assert_eq!(size(&json!({"ü": {"S": "ü"}})), 4);
    }

    #[test]
    fn a_number_takes_a_byte_for_two_significant_digits() {
        assert_eq!(value_size(&json!({"N": "12345"})), 3 + 1);
        assert_eq!(value_size(&json!({"N": "-12"})), 1 + 1 + 1);
        assert_eq!(value_size(&json!({"N": "1000000"})), 1 + 1);
    }

    #[test]
    fn documents_and_sets_weigh_their_parts() {
        assert_eq!(value_size(&json!({"L": [{"S": "ab"}, {"BOOL": true}]})), 3 + 2 + 1 + 1 + 1);
        assert_eq!(value_size(&json!({"M": {"k": {"NULL": true}}})), 3 + 1 + 1 + 1);
        assert_eq!(value_size(&json!({"SS": ["ab", "c"]})), 3);
        assert_eq!(value_size(&json!({"B": "QUJD"})), 3);
        assert_eq!(value_size(&json!({"B": "QUI="})), 2);
    }
}
