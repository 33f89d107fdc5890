//! How many threads the products of matrices take.

/// What candle and rayon go by.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Settles the number of threads once. Candle would ask the system before every product, which takes longer than a small
/// product itself: `vidense-mini` answers twice as fast so.
pub fn settle() {
    if std::env::var_os(VARIABLE).is_none() {
        let n = candle_core::utils::get_num_threads();
        // SAFETY: called first of all in `main`, when there is no other thread that could read the environment.
        unsafe { std::env::set_var(VARIABLE, n.to_string()) };
    }
}
