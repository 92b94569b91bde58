//! Kubernetes quantities (`100m`, `64Mi`, `1e3`), read so that they can be compared.

/// A number of nano-units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

const UNIT: i128 = 1_000_000_000;
const FORM: &str = "is a quantity such as 100m, 0.5, 64Mi or 1Gi";

impl Quantity {
    /// So many units.
    pub(super) const fn units(units: i128) -> Self {
        Self(units * UNIT)
    }

    /// So many thousandths.
    pub(super) const fn milli(milli: i128) -> Self {
        Self(milli * (UNIT / 1000))
    }

    /// Reads what `resource.ParseQuantity` reads, but nothing negative and nothing beyond 2^63.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || FORM.to_owned();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || whole.len() > 19 || fraction.len() > 9 || fraction.contains('.') {
            return Err(wrong());
        }
        let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        let decimals = u32::try_from(fraction.len()).map_err(|_| wrong())?;
        let (times, over) = factor(suffix).ok_or_else(wrong)?;
        let scaled = digits.checked_mul(times).and_then(|it| it.checked_mul(UNIT)).ok_or_else(wrong)?;
        let nano = scaled / (over * 10_i128.pow(decimals));
        if nano > i128::from(i64::MAX) * UNIT { Err(wrong()) } else { Ok(Self(nano)) }
    }
}

/// What a suffix multiplies by, and divides by.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let by = |exponent: u32| 10_i128.checked_pow(exponent);
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        let exponent: i32 = exponent.parse().ok().filter(|exponent: &i32| exponent.abs() <= 18)?;
        let power = by(exponent.unsigned_abs())?;
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, by(9)?),
        "u" => (1, by(6)?),
        "m" => (1, by(3)?),
        "k" => (by(3)?, 1),
        "M" => (by(6)?, 1),
        "G" => (by(9)?, 1),
        "T" => (by(12)?, 1),
        "P" => (by(15)?, 1),
        "E" => (by(18)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_many_spellings() {
        for (one, other) in
            [("0.1", "100m"), ("1Gi", "1024Mi"), ("1e3", "1k"), ("1.5", "1500m"), ("2E", "2e18"), ("1E2", "100")]
        {
            assert_eq!(Quantity::parse(one).unwrap(), Quantity::parse(other).unwrap(), "{one} {other}");
        }
        assert!(Quantity::parse("64m").unwrap() < Quantity::parse("64Mi").unwrap());
        for wrong in ["", ".", "m", "-1", "1 Mi", "1MB", "1e99", "1.2.3", "99999999999999999999"] {
            assert!(Quantity::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
