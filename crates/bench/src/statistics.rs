//! Medians and quartiles.

/// The middle of some numbers, and the middles of its halves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) lower: f64,
    pub(crate) upper: f64,
}

impl Summary {
    /// Of any numbers but none; of none, zeros.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Summary {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part| quantile(&sorted, part);
        Summary { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

/// Between two numbers, as far as it lies between them.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = part * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_and_many() {
        let summary = |numbers: &[f64]| {
            let Summary { lower, median, upper } = Summary::of(numbers.iter().copied());
            [lower, median, upper]
        };
        assert_eq!(summary(&[]), [0.0; 3]);
        assert_eq!(summary(&[7.0]), [7.0; 3]);
        assert_eq!(summary(&[4.0, 2.0]), [2.5, 3.0, 3.5]);
        assert_eq!(summary(&[5.0, 1.0, 3.0, 2.0, 4.0]), [2.0, 3.0, 4.0]);
    }
}
