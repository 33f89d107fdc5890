//! Number of threads of matrix products.

/// Variable from which candle and rayon read the number of threads.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads once. Candle would query the system before every matrix product, which takes longer than
/// a small product itself: `vidense-mini` answers twice as fast this way.
pub fn settle() {
    if std::env::var_os(VARIABLE).is_none() {
        let n = candle_core::utils::get_num_threads();
        // SAFETY: called at the start of `main`, before any other thread that could read the environment.
        unsafe { std::env::set_var(VARIABLE, n.to_string()) };
    }
}
